//! Options of `lend`, `borrow` and `leave`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use dynamicswap_types::{Bytes, Integrity, SlabSize};

/// Port of the controller on the lending machine.
pub const CONTROLLER_PORT: u16 = 7700;
/// Port of the data path on the lending machine, for TCP and for RDMA.
pub const DATA_PORT: u16 = 7701;

/// Options of `lend`.
#[derive(Debug, Clone, Args)]
pub struct LendArgs {
    /// This machine's address in the network that it shares with the borrowers. Where it belongs
    /// to an RDMA device, pages go by RDMA, else by TCP.
    #[arg(long, value_name = "IP")]
    pub address: IpAddr,
    /// Memory to lock and lend.
    #[arg(long, value_name = "SIZE")]
    pub capacity: Bytes,
    /// Size of a slab, the unit of placement: a power of two from 1Mi to 1Gi.
    #[arg(long, value_name = "SIZE", default_value = "16Mi", value_parser = crate::args::parse_slab)]
    pub slab: SlabSize,
    /// Print the systemd units and do nothing.
    #[arg(long)]
    pub print_units: bool,
}

/// Options of `borrow`.
#[derive(Debug, Clone, Args)]
pub struct BorrowArgs {
    /// The lending machine: IP, or IP:PORT if its controller has another port than 7700.
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_lender)]
    pub from: SocketAddr,
    /// Size of the swap device.
    #[arg(long, value_name = "SIZE")]
    pub size: Bytes,
    /// Keep no copy on this machine's disk: what the lender loses is lost.
    ///
    /// Without it every page also goes to a file as large as the device, behind the remote write.
    #[arg(long)]
    pub no_spill: bool,
    /// What protects pages outside this machine: full, tag64 or none. A policy that asks for more
    /// does not attach the device.
    #[arg(long, default_value_t)]
    pub integrity: Integrity,
    /// A policy of your own instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print the systemd units and do nothing.
    #[arg(long)]
    pub print_units: bool,
}

/// Options of `leave`.
#[derive(Debug, Clone, Args)]
pub struct LeaveArgs {
    /// Leave although borrowers have pages here: where this machine holds the only copy, the
    /// programs that own them die.
    #[arg(long)]
    pub force: bool,
}

fn parse_lender(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>();
    let address = address.map(|ip| SocketAddr::new(ip, CONTROLLER_PORT));
    address
        .or_else(|_| text.parse())
        .map_err(|_| format!("'{text}' is no address: write IP or IP:PORT, as 10.0.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lender_is_an_address_with_or_without_a_port() {
        let told = |text| parse_lender(text).map(|address| address.to_string());
        assert_eq!(told("10.0.0.1"), Ok("10.0.0.1:7700".to_owned()));
        assert_eq!(told("10.0.0.1:80"), Ok("10.0.0.1:80".to_owned()));
        assert_eq!(told("::1"), Ok("[::1]:7700".to_owned()));
        assert!(told("lender").is_err_and(|text| text.contains("write IP")));
    }
}
