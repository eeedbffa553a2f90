//! The link alone: our RDMA transport beside perftest, which does the same verbs and nothing else.

use anyhow::{Context as _, Result};
use dynamicswap_lab::daemons::{LONG, SHORT, spawn};
use dynamicswap_lab::wait_for;

use super::guests::Guests;
use super::samples::Samples;
use crate::Args;
use crate::link_cost::LinkCost;

/// Ours, and the peer's.
pub const READ: [&str; 2] = ["4 KiB read, ours [us]", "4 KiB read, ib_read_lat [us]"];
/// The same for writes.
pub const WRITE: [&str; 2] = ["4 KiB write, ours [us]", "4 KiB write, ib_write_lat [us]"];
/// Reads of 128 KiB.
pub const STREAM: [&str; 2] = [
    "128 KiB reads, ours [MB/s]",
    "128 KiB reads, ib_read_bw [MB/s]",
];
/// A page over TCP, for comparison.
pub const TCP_READ: &str = "4 KiB read, ours over TCP [us]";

/// Column of a table of perftest, behind the size and the number of iterations.
#[derive(Debug, Clone, Copy)]
enum Column {
    /// "t_typical" of a latency table, the median in microseconds.
    Median = 4,
    /// "BW average" of a bandwidth table, in MiB a second.
    Average = 3,
}

/// Measures both.
pub fn measure(_args: &Args, guests: &mut Guests, samples: &mut Samples) -> Result<()> {
    let reach = format!(
        "socat UNIX-LISTEN:/run/ds/donor.sock,fork TCP:{}:7100",
        guests.donor.address()
    );
    spawn(&mut guests.borrower, "socat-donor", &reach)?;
    let [ours, theirs] = READ;
    let cost = ours_by(guests, "rdma")?;
    samples.add(ours, cost.read_p50_us);
    samples.add(
        theirs,
        perftest(guests, "ib_read_lat", 4096, Column::Median)?,
    );
    let [ours, theirs] = WRITE;
    samples.add(ours, cost.write_p50_us);
    // It halves the way there and back of two writes, and ours waits for the acknowledgement.
    let half = perftest(guests, "ib_write_lat", 4096, Column::Median)?;
    samples.add(theirs, half);
    let [ours, theirs] = STREAM;
    samples.add(ours, cost.read_mb_s);
    let mib = perftest(guests, "ib_read_bw", 128 << 10, Column::Average)?;
    samples.add(theirs, mib * f64::from(1 << 20) / 1e6);
    samples.add(TCP_READ, ours_by(guests, "tcp")?.read_p50_us);
    Ok(())
}

fn ours_by(guests: &mut Guests, network: &str) -> Result<LinkCost> {
    let command = format!(
        "/lab/dynamicswap-bench link --control /run/ds/donor.sock --network {network} --count 1000 --seconds 4"
    );
    let said = wait_for(&mut guests.borrower, "our link's figures", LONG, &command)?;
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("the link's figures: {said}"))
}

fn perftest(guests: &mut Guests, program: &str, bytes: u32, column: Column) -> Result<f64> {
    let command = format!("{program} -F -R -s {bytes} -n 1000");
    spawn(&mut guests.donor, program, &command)?;
    let client = format!("sleep 1; {command} {}", guests.donor.address());
    let said = guests.borrower.succeed(&client, LONG)?;
    guests.donor.succeed(&format!("! pkill {program}"), SHORT)?;
    of_table(&said, bytes, column).with_context(|| format!("{program}: {said}"))
}

/// The value in the row of `bytes`.
fn of_table(said: &str, bytes: u32, column: Column) -> Option<f64> {
    let size = bytes.to_string();
    let row = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.first() == Some(&size.as_str()))?;
    row.get(column as usize)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_of_the_row_with_the_size_is_read() {
        let said = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]\n \
                    4096    1000          105.91         3120.61      121.49              130.22\n";
        assert_eq!(of_table(said, 4096, Column::Median), Some(121.49));
        assert_eq!(of_table(said, 2, Column::Median), None);
        let said = " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]\n \
                    131072     1000             310.08             301.22             0.002\n";
        assert_eq!(of_table(said, 131_072, Column::Average), Some(301.22));
    }
}
