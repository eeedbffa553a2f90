//! Layouts and numbers of the ublk driver's interface, written by hand from `linux/ublk_cmd.h`.
//!
//! Only what is used has a name. Every size and offset is asserted at compile time; all of it is
//! fixed-size integers, so that architectures agree.

use std::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Devices are added, asked about and removed through it.
pub const CONTROL: &str = "/dev/ublk-control";

/// Features, as `GET_FEATURES` tells them and `ADD_DEV` takes them.
pub mod feature {
    /// The device outlives its server, and requests queue meanwhile.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// What a dead server had taken is handed to the next one again.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are numbered as ioctls are.
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    /// Data is read from and written to the character device (Linux 6.5).
    pub const USER_COPY: u64 = 1 << 7;
    /// The device can be quiesced for a planned change of servers (Linux 6.16).
    pub const QUIESCE: u64 = 1 << 12;
    /// The device can be stopped unless somebody has it open (Linux 7.0).
    pub const SAFE_STOP: u64 = 1 << 17;
}

/// States of a device. In all others there is a block device, served or waiting for a server.
pub mod state {
    /// Added, not started; or stopped.
    pub const DEAD: u16 = 0;
}

/// Commands, encoded as the kernel's ioctl numbers.
pub mod command {
    use super::{ControlCommand, IoCommand, size_of};

    const READ: u32 = 2;
    const READ_WRITE: u32 = 3;

    #[expect(clippy::cast_possible_truncation, reason = "sizes of 16 and 32 bytes")]
    const fn code(direction: u32, number: u32, bytes: usize) -> u32 {
        direction << 30 | (bytes as u32) << 16 | (b'u' as u32) << 8 | number
    }

    const fn control(direction: u32, number: u32) -> u32 {
        code(direction, number, size_of::<ControlCommand>())
    }

    /// What a device is and does.
    pub const GET_DEV_INFO: u32 = control(READ, 0x02);
    /// Adds a device.
    pub const ADD_DEV: u32 = control(READ_WRITE, 0x04);
    /// Removes a device, and waits until nobody has it open any more.
    pub const DEL_DEV: u32 = control(READ_WRITE, 0x05);
    /// Makes the block device, once every tag has been fetched.
    pub const START_DEV: u32 = control(READ_WRITE, 0x06);
    /// Takes the block device away; every request ends with an error.
    pub const STOP_DEV: u32 = control(READ_WRITE, 0x07);
    /// Size and limits of the block device to be.
    pub const SET_PARAMS: u32 = control(READ_WRITE, 0x08);
    /// Makes a quiesced device ready for its next server.
    pub const START_USER_RECOVERY: u32 = control(READ_WRITE, 0x10);
    /// Lets requests flow to the next server, once it has fetched every tag.
    pub const END_USER_RECOVERY: u32 = control(READ_WRITE, 0x11);
    /// What the driver can do.
    pub const GET_FEATURES: u32 = control(READ, 0x13);
    /// Removes a device without waiting (Linux 6.9).
    pub const DEL_DEV_ASYNC: u32 = control(READ, 0x14);
    /// Quiesces a device for a planned change of servers.
    pub const QUIESCE_DEV: u32 = control(READ_WRITE, 0x16);
    /// Stops a device unless somebody has it open.
    pub const TRY_STOP_DEV: u32 = control(READ_WRITE, 0x17);
    /// Waits for a tag's first request.
    pub const FETCH: u32 = code(READ_WRITE, 0x20, size_of::<IoCommand>());
    /// Answers a tag's request, and waits for its next one.
    pub const COMMIT_AND_FETCH: u32 = code(READ_WRITE, 0x21, size_of::<IoCommand>());
}

/// What a request asks, in the lowest byte of its flags.
pub mod operation {
    /// Read.
    pub const READ: u32 = 0;
    /// Write.
    pub const WRITE: u32 = 1;
    /// Everything written must be kept.
    pub const FLUSH: u32 = 2;
    /// Forget a range.
    pub const DISCARD: u32 = 3;
    /// Make a range zero.
    pub const WRITE_ZEROES: u32 = 5;
    /// The byte in which the operation stands.
    pub const MASK: u32 = 0xff;
}

/// Result of a fetch that brings a request.
pub const RESULT_OK: i32 = 0;
/// First position of the character device at which data is.
pub const DATA_OFFSET: u64 = 0x8000_0000;
/// Where a position has the tag.
pub const TAG_SHIFT: u32 = 25;
/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;

/// `struct ublksrv_ctrl_cmd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct ControlCommand {
    /// The device; all ones where the kernel shall choose its number.
    pub device: u32,
    /// All ones: no command of ours is about one queue.
    pub queue: u16,
    /// Bytes at `address`.
    pub len: u16,
    /// A buffer for the command.
    pub address: u64,
    /// The server's process id, where the command wants it.
    pub data: u64,
    /// Only for devices without privileges.
    pub path_len: u16,
    /// Nothing.
    pub pad: [u16; 3],
}

/// `struct ublksrv_ctrl_dev_info`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct DeviceInfo {
    /// Queues.
    pub queues: u16,
    /// Tags of each queue.
    pub depth: u16,
    /// See [`state`].
    pub state: u16,
    /// Nothing.
    pub pad0: u16,
    /// Longest request.
    pub io_bytes_max: u32,
    /// Its number.
    pub device: u32,
    /// The server's process id.
    pub server_pid: i32,
    /// Nothing.
    pub pad1: u32,
    /// See [`feature`].
    pub flags: u64,
    /// Kept by the kernel for the server, and never looked at.
    pub token: u64,
    /// Owner, of devices without privileges.
    pub owner: [u32; 2],
    /// Nothing.
    pub reserved: [u64; 2],
}

/// `struct ublk_params`, with the parameters that a swap device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Parameters {
    /// Bytes of all of it.
    pub len: u32,
    /// Which parts are set: basic 1, discard 2.
    pub types: u32,
    /// Attributes: none, for there is no cache to flush and nothing rotates.
    pub attributes: u32,
    /// Logical block size, as a power of two.
    pub logical_shift: u8,
    /// Physical block size.
    pub physical_shift: u8,
    /// Best size of a request.
    pub optimal_shift: u8,
    /// Least size of a request.
    pub least_shift: u8,
    /// Sectors of the longest request.
    pub sectors_max: u32,
    /// No edges inside the device that requests must not cross.
    pub edge_sectors: u32,
    /// Sectors of the device.
    pub device_sectors: u64,
    /// No rules for the memory behind requests.
    pub boundary_mask: u64,
    /// Where discards may begin.
    pub discard_alignment: u32,
    /// Their least size.
    pub discard_granularity: u32,
    /// Their greatest size, in sectors.
    pub discard_sectors_max: u32,
    /// The greatest range made zero at once.
    pub zeroes_sectors_max: u32,
    /// Ranges of one discard.
    pub discard_segments_max: u16,
    /// Nothing.
    pub reserved: u16,
    /// Nothing: the whole is aligned to eight bytes.
    pub pad: u32,
}

/// `struct ublksrv_io_desc`: a request, in memory shared with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct IoDescriptor {
    /// See [`operation`].
    pub op_flags: u32,
    /// Its length.
    pub sectors: u32,
    /// Where it begins.
    pub first_sector: u64,
    /// Not used: data is copied by reads and writes of the character device.
    pub address: u64,
}

/// `struct ublksrv_io_cmd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct IoCommand {
    /// The queue.
    pub queue: u16,
    /// The tag.
    pub tag: u16,
    /// Bytes done, or an error number below zero.
    pub result: i32,
    /// Zero: no buffer is lent to the kernel.
    pub address: u64,
}

const _: () = assert!(size_of::<ControlCommand>() == 32);
const _: () = assert!(offset_of!(ControlCommand, address) == 8);
const _: () = assert!(offset_of!(ControlCommand, data) == 16);
const _: () = assert!(size_of::<DeviceInfo>() == 64);
const _: () = assert!(offset_of!(DeviceInfo, io_bytes_max) == 8);
const _: () = assert!(offset_of!(DeviceInfo, server_pid) == 16);
const _: () = assert!(offset_of!(DeviceInfo, flags) == 24);
const _: () = assert!(offset_of!(DeviceInfo, token) == 32);
const _: () = assert!(size_of::<Parameters>() == 64);
const _: () = assert!(offset_of!(Parameters, attributes) == 8);
const _: () = assert!(offset_of!(Parameters, device_sectors) == 24);
const _: () = assert!(offset_of!(Parameters, discard_alignment) == 40);
const _: () = assert!(offset_of!(Parameters, discard_segments_max) == 56);
const _: () = assert!(size_of::<IoDescriptor>() == 24);
const _: () = assert!(offset_of!(IoDescriptor, first_sector) == 8);
const _: () = assert!(size_of::<IoCommand>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_codes_are_those_of_the_kernel_s_macros() {
        // As a C compiler gives them for linux/ublk_cmd.h.
        assert_eq!(command::GET_DEV_INFO, 0x8020_7502);
        assert_eq!(command::ADD_DEV, 0xc020_7504);
        assert_eq!(command::SET_PARAMS, 0xc020_7508);
        assert_eq!(command::END_USER_RECOVERY, 0xc020_7511);
        assert_eq!(command::GET_FEATURES, 0x8020_7513);
        assert_eq!(command::DEL_DEV_ASYNC, 0x8020_7514);
        assert_eq!(command::FETCH, 0xc010_7520);
        assert_eq!(command::COMMIT_AND_FETCH, 0xc010_7521);
    }
}
