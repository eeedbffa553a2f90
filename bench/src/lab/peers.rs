//! Swap devices, ours and those of the kernel: how each is set up and taken away.

use std::time::Duration;

use anyhow::Result;
use dynamicswap_lab::daemons::{Device, LONG, SHORT, production_device, spawn, swap_device_of};
use dynamicswap_lab::wait_for;

use super::guests::Guests;

/// A swap device.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its name in figures.
    pub name: &'static str,
    /// Makes it swap on the borrower.
    pub on: fn(&mut Guests) -> Result<()>,
    /// Takes it away.
    pub off: fn(&mut Guests) -> Result<()>,
}

/// Of every device.
const SIZE: &str = "96Mi";

/// Names that figures refer to.
pub const RDMA: &str = "ours, RDMA, one copy";
/// Two donors.
pub const RDMA_TWO: &str = "ours, RDMA, two copies";
/// Pages go as they are.
pub const RDMA_PLAIN: &str = "ours, RDMA, not encrypted";
/// Frames over sockets.
pub const TCP: &str = "ours, TCP, one copy";
/// The kernel's network block device.
pub const NBD: &str = "NBD";
/// NVMe over TCP.
pub const NVME_TCP: &str = "nvme-tcp";
/// NVMe over RDMA.
pub const NVME_RDMA: &str = "nvme-rdma";
/// A swap file on a paravirtual disk, which lies in the host's page cache.
pub const DISK: &str = "virtio disk";
/// Compressed memory of the borrower's own.
pub const ZRAM: &str = "zram";

/// All of them, in the order of a run.
pub const ALL: [Peer; 9] = [
    Peer {
        name: RDMA,
        on: rdma,
        off: ours_off,
    },
    Peer {
        name: NBD,
        on: nbd,
        off: nbd_off,
    },
    Peer {
        name: NVME_TCP,
        on: nvme_tcp,
        off: nvme_off,
    },
    Peer {
        name: NVME_RDMA,
        on: nvme_rdma,
        off: nvme_off,
    },
    Peer {
        name: RDMA_PLAIN,
        on: rdma_plain,
        off: ours_off,
    },
    Peer {
        name: RDMA_TWO,
        on: rdma_two,
        off: ours_off,
    },
    Peer {
        name: TCP,
        on: tcp,
        off: ours_off,
    },
    Peer {
        name: DISK,
        on: disk,
        off: disk_off,
    },
    Peer {
        name: ZRAM,
        on: zram,
        off: zram_off,
    },
];

fn rdma(guests: &mut Guests) -> Result<()> {
    production_device(&mut guests.borrower, &[&guests.donor], Device::plain(SIZE))
}

fn rdma_two(guests: &mut Guests) -> Result<()> {
    let device = Device {
        class: "--copies 2",
        ..Device::plain(SIZE)
    };
    let donors = [&guests.donor, &guests.second];
    production_device(&mut guests.borrower, &donors, device)
}

fn rdma_plain(guests: &mut Guests) -> Result<()> {
    let device = Device {
        holder: "--integrity none",
        ..Device::plain(SIZE)
    };
    production_device(&mut guests.borrower, &[&guests.donor], device)
}

fn tcp(guests: &mut Guests) -> Result<()> {
    let device = Device {
        class: "--copies 1 --tcp",
        ..Device::plain(SIZE)
    };
    swap_device_of(&mut guests.borrower, &[&guests.donor], device)
}

fn ours_off(guests: &mut Guests) -> Result<()> {
    let end = "kill $(cat /run/ds/swapd.pid); pkill socat; true";
    guests.borrower.succeed(end, SHORT)?;
    let gone = "! pgrep -f '^/lab/dynamicswap-swapd' && ! grep /dev/ /proc/swaps && \
                rm -f /run/ds/*.sock /run/ds/swapd.log";
    wait_for(&mut guests.borrower, "our device's end", LONG, gone)?;
    Ok(())
}

fn nbd(guests: &mut Guests) -> Result<()> {
    let serve = format!(
        "mkdir -p /run/nbd && mount -t tmpfs -o size=100m tmpfs /run/nbd && \
         truncate -s {SIZE} /run/nbd/disk && \
         printf '[generic]\n[swap]\nexportname=/run/nbd/disk\n' > /run/nbd.conf",
        SIZE = SIZE.trim_end_matches('i')
    );
    guests.donor.succeed(&serve, SHORT)?;
    spawn(&mut guests.donor, "nbd", "nbd-server -d -C /run/nbd.conf")?;
    let connect = format!(
        "modprobe nbd nbds_max=1 && nbd-client {} 10809 /dev/nbd0 -N swap -b 4096",
        guests.donor.address()
    );
    wait_for(&mut guests.borrower, "NBD", SHORT, &connect)?;
    swap_on(guests, "/dev/nbd0")
}

fn nbd_off(guests: &mut Guests) -> Result<()> {
    let end = "swapoff /dev/nbd0 && nbd-client -d /dev/nbd0 && modprobe -r nbd";
    guests.borrower.succeed(end, LONG)?;
    let end = "kill $(cat /run/ds/nbd.pid); \
               for n in $(seq 50); do umount /run/nbd 2>/dev/null && exit 0; sleep 0.1; done; exit 1";
    guests.donor.succeed(end, SHORT)?;
    Ok(())
}

fn nvme_tcp(guests: &mut Guests) -> Result<()> {
    nvme(guests, "tcp")
}

fn nvme_rdma(guests: &mut Guests) -> Result<()> {
    nvme(guests, "rdma")
}

fn nvme(guests: &mut Guests, transport: &str) -> Result<()> {
    let address = guests.donor.address().to_owned();
    let kib = 96 << 10;
    let serve = format!(
        "set -e; modprobe brd rd_nr=1 rd_size={kib}; modprobe -a nvmet nvmet-{transport}; \
         mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config; \
         cd /sys/kernel/config/nvmet; mkdir subsystems/swap subsystems/swap/namespaces/1 ports/1; \
         echo 1 > subsystems/swap/attr_allow_any_host; \
         echo /dev/ram0 > subsystems/swap/namespaces/1/device_path; \
         echo 1 > subsystems/swap/namespaces/1/enable; \
         cd ports/1; echo {transport} > addr_trtype; echo ipv4 > addr_adrfam; \
         echo {address} > addr_traddr; echo 4420 > addr_trsvcid; \
         ln -s /sys/kernel/config/nvmet/subsystems/swap subsystems/swap"
    );
    guests.donor.succeed(&serve, SHORT)?;
    let connect = format!(
        "modprobe nvme-{transport} && \
         echo transport={transport},traddr={address},trsvcid=4420,nqn=swap,nr_io_queues=1 > /dev/nvme-fabrics && \
         for n in $(seq 100); do test -b /dev/nvme0n1 && exit 0; sleep 0.1; done; exit 1"
    );
    guests.borrower.succeed(&connect, SHORT)?;
    swap_on(guests, "/dev/nvme0n1")
}

fn nvme_off(guests: &mut Guests) -> Result<()> {
    let end = "swapoff /dev/nvme0n1 && echo 1 > /sys/class/nvme/nvme0/delete_controller";
    guests.borrower.succeed(end, LONG)?;
    let end = "set -e; cd /sys/kernel/config/nvmet; rm ports/1/subsystems/swap; \
               echo 0 > subsystems/swap/namespaces/1/enable; \
               rmdir ports/1 subsystems/swap/namespaces/1 subsystems/swap; modprobe -r brd";
    guests.donor.succeed(end, SHORT)?;
    Ok(())
}

fn disk(guests: &mut Guests) -> Result<()> {
    let file =
        "dd if=/dev/zero of=/swapfile bs=1M count=96 conv=fsync status=none && chmod 600 /swapfile";
    guests.borrower.succeed(file, LONG)?;
    swap_on(guests, "/swapfile")
}

fn disk_off(guests: &mut Guests) -> Result<()> {
    let end = "swapoff /swapfile && rm /swapfile";
    guests.borrower.succeed(end, LONG)?;
    Ok(())
}

fn zram(guests: &mut Guests) -> Result<()> {
    let size = format!(
        "modprobe zram num_devices=1 && echo {SIZE} > /sys/block/zram0/disksize",
        SIZE = SIZE.trim_end_matches('i')
    );
    guests.borrower.succeed(&size, SHORT)?;
    swap_on(guests, "/dev/zram0")
}

fn zram_off(guests: &mut Guests) -> Result<()> {
    let end = "swapoff /dev/zram0 && modprobe -r zram";
    guests.borrower.succeed(end, LONG)?;
    Ok(())
}

fn swap_on(guests: &mut Guests, device: &str) -> Result<()> {
    let on = format!("mkswap -q {device} && swapon {device}");
    guests.borrower.succeed(&on, Duration::from_secs(30))?;
    Ok(())
}
