//! The command line of `dynamicswap-memory-server`, and what it comes to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dynamicswap_engine::limits::CONNECTIONS_MAX;
use dynamicswap_engine::slots::SlotGeometry;
use dynamicswap_proto::frame::SERVER_SLOTS_MAX;
use dynamicswap_types::{Bytes, NodeName, SlabSize};

use crate::daemon::options::{BadInput, parse_slab_size};

/// Lends memory of this node to swap devices of other nodes.
#[derive(Debug, Parser)]
#[command(name = "dynamicswap-memory-server", version, args_override_self = true)]
pub struct Options {
    /// Name of this node.
    #[arg(long)]
    pub node: NodeName,
    /// Address of the data path; port 0 takes the port used before, else any free one.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Address for RDMA beside TCP: an IP of an RDMA device; port 0 takes the number of the TCP
    /// port. A host without RDMA says so and serves TCP.
    #[arg(long, value_name = "IP:PORT")]
    pub rdma_listen: Option<SocketAddr>,
    /// Where this server keeps its state; its memory is mounted at DIR/memory.
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Memory to lend; a whole number of slabs.
    #[arg(long, default_value = "1Gi")]
    pub capacity: Bytes,
    /// Size of a slab, the same on every node: a power of two from 1Mi to 1Gi.
    #[arg(long, default_value_t = SlabSize::DEFAULT, value_parser = parse_slab_size)]
    pub slab: SlabSize,
    /// Unix socket for the node's agent.
    #[arg(long, value_name = "PATH")]
    pub control_socket: PathBuf,
    /// Data-path connections at once.
    #[arg(long, default_value_t = 64)]
    pub connections_max: u16,
    /// Longest time to look for more work before sleeping, in microseconds; 0 sleeps at once.
    #[arg(long, default_value_t = 50)]
    pub spin_us: u32,
    /// Throw the lent memory away instead of serving: unmounts and removes DIR/memory.
    #[arg(long)]
    pub discard: bool,
}

impl Options {
    /// The slots that the capacity makes.
    ///
    /// # Errors
    /// A sentence if it makes none, too many, or is no whole number of slabs.
    pub fn geometry(&self) -> Result<SlotGeometry, BadInput> {
        let (capacity, slab) = (self.capacity, self.slab.bytes());
        let slots = capacity.get() / slab.get();
        if slots > SERVER_SLOTS_MAX {
            return Err(BadInput::new(format!(
                "--capacity {capacity} in slabs of {slab} is impossible: it makes {slots} slots, and {SERVER_SLOTS_MAX} is the most; choose a larger --slab or a smaller capacity"
            )));
        }
        let whole = capacity.get().is_multiple_of(slab.get()) && slots > 0;
        match u32::try_from(slots) {
            Ok(slots) if whole => Ok(SlotGeometry {
                slot_size: self.slab,
                slots,
            }),
            _ => Err(BadInput::new(format!(
                "--capacity {capacity} is no whole number of slabs of {slab}: choose a multiple \
                 such as {}",
                Bytes::new(slots.clamp(1, 1 << 20) * slab.get())
            ))),
        }
    }

    /// Checks what clap cannot.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), BadInput> {
        if self.connections_max == 0 || usize::from(self.connections_max) > CONNECTIONS_MAX {
            return Err(BadInput::new(format!(
                "--connections-max {} is not possible: choose 1 to {CONNECTIONS_MAX}",
                self.connections_max
            )));
        }
        if self.spin_us > 10_000 {
            return Err(BadInput::new(format!(
                "--spin-us {} would hold a core: choose at most 10000",
                self.spin_us
            )));
        }
        self.geometry().map(|_| ())
    }

    /// The spin limit.
    #[must_use]
    pub const fn spin(&self) -> Duration {
        Duration::from_micros(self.spin_us as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Options {
        let fixed = [
            "dynamicswap-memory-server",
            "--node=donor-1",
            "--listen=127.0.0.1:0",
            "--state-dir=/tmp/x",
            "--control-socket=/tmp/x/s",
        ];
        Options::try_parse_from(fixed.iter().chain(extra)).expect("valid")
    }

    #[test]
    fn capacity_is_a_whole_number_of_slabs() {
        let geometry = parse(&["--capacity=64Mi", "--slab=16Mi"]).geometry();
        assert_eq!(geometry.expect("four").slots, 4);
        for bad in ["0", "8Mi", "17Mi", "16777216Ti"] {
            let Ok(options) = Options::try_parse_from([
                "x",
                "--node=a",
                "--listen=127.0.0.1:0",
                "--state-dir=/tmp/x",
                "--control-socket=/tmp/x/s",
                "--capacity",
                bad,
            ]) else {
                continue;
            };
            let error = options.geometry().expect_err("no whole number of slots");
            assert!(error.to_string().contains("--capacity"), "{error}");
        }
    }

    #[test]
    fn default_slab_is_that_of_the_swap_devices() {
        assert_eq!(parse(&[]).slab, SlabSize::DEFAULT);
        assert_eq!(parse(&[]).geometry().expect("whole slabs").slots, 16);
    }

    #[test]
    fn more_slots_than_a_document_can_name_are_refused() {
        let error = parse(&["--capacity=1Ti", "--slab=1Mi"]).geometry();
        let text = error.expect_err("a million slots").to_string();
        assert!(text.contains("1048576 slots"), "{text}");
        assert!(
            parse(&["--capacity=256Gi", "--slab=1Mi"])
                .geometry()
                .is_ok()
        );
    }

    #[test]
    fn limits_are_checked() {
        assert!(parse(&[]).check().is_ok());
        assert!(parse(&["--connections-max=0"]).check().is_err());
        assert!(parse(&["--connections-max=2000"]).check().is_err());
        assert!(parse(&["--spin-us=20000"]).check().is_err());
    }
}
