//! Connections by rdma_cm: events, the steps of connecting, and the queue pair that comes of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use libc::{c_int, c_void};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::abi::{self, CmChannel, CmEvent, CmId, ConnParam, Cq, QpAttr, QpCap, QpInitAttr};
use super::library::{Verbs, VerbsError, errno};
use super::objects::{CompletionQueue, Device, ProtectionDomain, QueuePairKey};
use super::queue::Batch;

/// Most bytes that a connection event carries.
const PRIVATE_MAX: usize = 196;
/// Connections that wait for the listener.
const BACKLOG: c_int = 64;
/// Lost packets are sent again so many times before the connection breaks.
const RETRIES: u8 = 7;
/// Time to the first repetition: 4.096 us times 2 to this power, 67 ms. With [`RETRIES`] a dead
/// peer is noticed in about half a second.
const ACK_TIMEOUT: u8 = 14;

/// What happened, of what this program cares for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmEventKind {
    /// The address belongs to a device.
    AddressResolved,
    /// The way is known.
    RouteResolved,
    /// A peer wants to connect to a listener.
    ConnectRequest,
    /// The connection is there.
    Established,
    /// The peer said no.
    Rejected,
    /// A step failed, with the errno of the status.
    Failed,
    /// The connection has ended, or its device was taken away.
    Disconnected,
    /// Something that changes nothing here.
    Other,
}

/// Names a connection within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmKey(usize);

/// Bytes that came with an event.
#[derive(Debug, Clone, Copy)]
pub struct PrivateData {
    bytes: [u8; PRIVATE_MAX],
    len: usize,
}

impl PrivateData {
    /// The bytes; the fabric may have added zeros.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// An event.
#[derive(Debug)]
pub struct CmNews {
    /// What happened.
    pub kind: CmEventKind,
    /// To which connection; for a request, the listener.
    pub key: CmKey,
    /// Of a failure.
    pub errno: Errno,
    /// Of a request: the connection to accept or reject.
    pub request: Option<Connection>,
    /// What the peer sent with it.
    pub data: PrivateData,
}

/// Where the events of connections come out.
#[derive(Debug, Clone)]
pub struct EventChannel(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    verbs: &'static Verbs,
    raw: NonNull<CmChannel>,
}

// SAFETY: librdmacm may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above; the library locks what it must.
unsafe impl Sync for Channel {}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: every connection of the channel holds a reference to it, and so is gone.
        unsafe { (self.verbs.cm.rdma_destroy_event_channel)(self.raw.as_ptr()) };
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel, and so its descriptor, lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.raw.as_ref().fd) }
    }
}

impl EventChannel {
    /// A new one that never waits.
    ///
    /// # Errors
    /// The host's: no permission, or no rdma_cm in the kernel.
    pub fn new(verbs: &'static Verbs) -> Result<Self, VerbsError> {
        // SAFETY: takes nothing.
        let raw = unsafe { (verbs.cm.rdma_create_event_channel)() };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("rdma_create_event_channel"))?;
        let channel = Self(Arc::new(Channel { verbs, raw }));
        let flags = fcntl_getfl(&channel);
        flags
            .and_then(|flags| fcntl_setfl(&channel, flags | OFlags::NONBLOCK))
            .map_err(|errno| VerbsError::Call {
                call: "fcntl",
                errno,
            })?;
        Ok(channel)
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<CmNews> {
        let cm = &self.0.verbs.cm;
        let mut event: *mut CmEvent = std::ptr::null_mut();
        // SAFETY: the channel is alive, the place is ours.
        let code = unsafe { (cm.rdma_get_cm_event)(self.0.raw.as_ptr(), &raw mut event) };
        let event = NonNull::new(event).filter(|_| code == 0)?;
        // SAFETY: the library gave an event, which lives until it is acknowledged below. A
        // request's connection is new and nobody else's.
        let news = unsafe { self.read(event.as_ref()) };
        // SAFETY: as above; everything was copied out.
        unsafe { (cm.rdma_ack_cm_event)(event.as_ptr()) };
        Some(news)
    }

    /// # Safety
    /// The event must be one that the library gave and that is not acknowledged.
    unsafe fn read(&self, event: &CmEvent) -> CmNews {
        let kind = kind_of(event.event);
        let request = (kind == CmEventKind::ConnectRequest)
            .then(|| NonNull::new(event.id))
            .flatten()
            .map(|raw| Connection {
                channel: self.clone(),
                raw,
                queues: None,
            });
        let key = if request.is_some() {
            event.listen_id
        } else {
            event.id
        };
        let mut data = PrivateData {
            bytes: [0; PRIVATE_MAX],
            len: 0,
        };
        let carries = matches!(
            kind,
            CmEventKind::ConnectRequest | CmEventKind::Established | CmEventKind::Rejected
        );
        if carries && !event.param.private_data.is_null() {
            data.len = usize::from(event.param.private_data_len).min(PRIVATE_MAX);
            // SAFETY: these events carry so many bytes at this place, until they are acknowledged.
            let bytes = unsafe {
                std::slice::from_raw_parts(event.param.private_data.cast::<u8>(), data.len)
            };
            data.bytes[..data.len].copy_from_slice(bytes);
        }
        CmNews {
            kind,
            key: CmKey(key.addr()),
            errno: errno(event.status),
            request,
            data,
        }
    }
}

const fn kind_of(event: u32) -> CmEventKind {
    match event {
        0 => CmEventKind::AddressResolved,
        2 => CmEventKind::RouteResolved,
        4 => CmEventKind::ConnectRequest,
        1 | 3 | 6 | 7 => CmEventKind::Failed,
        8 => CmEventKind::Rejected,
        9 => CmEventKind::Established,
        10 | 11 => CmEventKind::Disconnected,
        _ => CmEventKind::Other,
    }
}

/// What a connection's queue pair works with; dropped after it.
#[derive(Debug)]
struct Queues {
    completions: CompletionQueue,
    _domain: ProtectionDomain,
}

/// A connection, or a listener: an rdma_cm id, and its queue pair once it has one.
#[derive(Debug)]
pub struct Connection {
    channel: EventChannel,
    raw: NonNull<CmId>,
    queues: Option<Queues>,
}

// SAFETY: librdmacm may be called from any thread.
unsafe impl Send for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end_queue_pair();
        // SAFETY: the id is ours and has no queue pair any more; its events are acknowledged as
        // they are taken, so this does not wait.
        unsafe { (self.channel.0.verbs.cm.rdma_destroy_id)(self.raw.as_ptr()) };
    }
}

impl Connection {
    /// A connection to be made.
    ///
    /// # Errors
    /// The host's.
    pub fn new(channel: &EventChannel) -> Result<Self, VerbsError> {
        let mut raw = std::ptr::null_mut();
        let nobody = std::ptr::null_mut();
        let (cm, events) = (&channel.0.verbs.cm, channel.0.raw.as_ptr());
        // SAFETY: the channel is alive and is kept below; the place is ours.
        let code =
            unsafe { (cm.rdma_create_id)(events, &raw mut raw, nobody, abi::PORT_SPACE_TCP) };
        check(code, "rdma_create_id")?;
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("rdma_create_id"))?;
        Ok(Self {
            channel: channel.clone(),
            raw,
            queues: None,
        })
    }

    /// A listener; gives its port with it.
    ///
    /// # Errors
    /// The host's: no device has the address, or the port is taken.
    pub fn listen(channel: &EventChannel, address: SocketAddr) -> Result<(Self, u16), VerbsError> {
        let listener = Self::new(channel)?;
        let cm = &channel.0.verbs.cm;
        let mut place = Sockaddr::from(address);
        // SAFETY: the id is alive, and the address is one for as long as the calls last.
        unsafe {
            check(
                (cm.rdma_bind_addr)(listener.raw.as_ptr(), place.as_mut_ptr()),
                "rdma_bind_addr",
            )?;
            check(
                (cm.rdma_listen)(listener.raw.as_ptr(), BACKLOG),
                "rdma_listen",
            )?;
            let port = (cm.rdma_get_src_port)(listener.raw.as_ptr());
            Ok((listener, u16::from_be(port)))
        }
    }

    /// Its name in events.
    #[must_use]
    pub fn key(&self) -> CmKey {
        CmKey(self.raw.as_ptr().addr())
    }

    /// The device that it goes through, once that is known.
    #[must_use]
    pub fn device(&self) -> Option<Device> {
        // SAFETY: the id is alive.
        Device::of(unsafe { self.raw.as_ref().verbs })
    }

    /// The name of its queue pair in events of the device.
    #[must_use]
    pub fn queue_pair(&self) -> Option<QueuePairKey> {
        // SAFETY: the id is alive.
        let qp = unsafe { self.raw.as_ref().qp };
        (!qp.is_null()).then(|| QueuePairKey(qp.addr()))
    }

    /// Whether the queue pair is broken, as it is after the peer used a key that it does not have.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        if self.queues.is_none() {
            return false;
        }
        let mut state = QpAttr {
            qp_state: 0,
            rest: [0; 35],
        };
        let mut made = attributes(std::ptr::null_mut(), 0);
        let ibv = &self.channel.0.verbs.ibv;
        // SAFETY: the id is alive and has a queue pair; both places are ours and large enough.
        let code = unsafe {
            let qp = self.raw.as_ref().qp;
            (ibv.ibv_query_qp)(qp, &raw mut state, abi::QP_STATE, &raw mut made)
        };
        code == 0 && state.qp_state == abi::QP_STATE_ERROR
    }

    /// The peer's address; unspecified if it has none.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        // SAFETY: the id is alive; the library filled the address in, of whatever family.
        let storage = unsafe { &self.raw.as_ref().destination };
        address_of(storage)
    }

    /// First step: which device leads to the address.
    ///
    /// # Errors
    /// The host's.
    pub fn resolve_address(&self, address: SocketAddr, time: Duration) -> Result<(), VerbsError> {
        let mut place = Sockaddr::from(address);
        let timeout = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
        let (cm, own) = (&self.channel.0.verbs.cm, std::ptr::null_mut());
        // SAFETY: the id is alive, and the address is one for as long as the call lasts.
        let code =
            unsafe { (cm.rdma_resolve_addr)(self.raw.as_ptr(), own, place.as_mut_ptr(), timeout) };
        check(code, "rdma_resolve_addr")
    }

    /// Second step: the way.
    ///
    /// # Errors
    /// The host's.
    pub fn resolve_route(&self, time: Duration) -> Result<(), VerbsError> {
        let timeout = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: the id is alive.
        let code = unsafe { (cm.rdma_resolve_route)(self.raw.as_ptr(), timeout) };
        check(code, "rdma_resolve_route")
    }

    /// Makes the queue pair, for `depth` operations at once.
    ///
    /// # Errors
    /// The device's.
    pub fn make_queue_pair(
        &mut self,
        domain: &ProtectionDomain,
        completions: CompletionQueue,
        depth: usize,
    ) -> Result<(), VerbsError> {
        let mut wanted = attributes(completions.raw(), depth);
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: id and domain are alive; queue and domain are kept until the queue pair's end.
        let code = unsafe { (cm.rdma_create_qp)(self.raw.as_ptr(), domain.raw(), &raw mut wanted) };
        check(code, "rdma_create_qp")?;
        self.queues = Some(Queues {
            completions,
            _domain: domain.clone(),
        });
        let mut timeout = ACK_TIMEOUT;
        let (place, len) = ((&raw mut timeout).cast::<c_void>(), size_of::<u8>());
        // SAFETY: the id is alive and the option is one byte. A kernel without the option keeps
        // its own timeout, and the transport's deadline finds a dead peer.
        unsafe {
            (cm.rdma_set_option)(
                self.raw.as_ptr(),
                abi::OPTION_ID,
                abi::OPTION_ID_ACK_TIMEOUT,
                place,
                len,
            );
        }
        Ok(())
    }

    /// Third step: asks the peer, with `data` of at most 56 bytes.
    ///
    /// # Errors
    /// The host's.
    pub fn connect(&self, data: &[u8]) -> Result<(), VerbsError> {
        let mut parameters = parameters(data);
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: the id is alive; the data lives until the call has copied it.
        let code = unsafe { (cm.rdma_connect)(self.raw.as_ptr(), &raw mut parameters) };
        check(code, "rdma_connect")
    }

    /// Says yes to a request, with `data` of at most 196 bytes.
    ///
    /// # Errors
    /// The host's.
    pub fn accept(&self, data: &[u8]) -> Result<(), VerbsError> {
        let mut parameters = parameters(data);
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: the id is alive; the data lives until the call has copied it.
        let code = unsafe { (cm.rdma_accept)(self.raw.as_ptr(), &raw mut parameters) };
        check(code, "rdma_accept")
    }

    /// Says no to a request, with `data` of at most 148 bytes.
    pub fn reject(self, data: &[u8]) {
        let len = u8::try_from(data.len()).unwrap_or_default();
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: the id is alive, and the data for as long as the call lasts. If it fails, the
        // peer's own time limit tells it.
        unsafe { (cm.rdma_reject)(self.raw.as_ptr(), data.as_ptr().cast(), len) };
    }

    /// Ends the queue pair, and with it every operation on it in both directions: afterwards
    /// nothing of this connection touches any memory. Tells the peer, if it can.
    pub fn end_queue_pair(&mut self) {
        if self.queues.is_none() {
            return;
        }
        let cm = &self.channel.0.verbs.cm;
        // SAFETY: the id is alive and has a queue pair, whose queue and domain are dropped after.
        unsafe {
            (cm.rdma_disconnect)(self.raw.as_ptr());
            (cm.rdma_destroy_qp)(self.raw.as_ptr());
        }
        self.queues = None;
    }

    /// Its completions; `None` without a queue pair.
    pub fn completions(&mut self) -> Option<&mut CompletionQueue> {
        self.queues.as_mut().map(|queues| &mut queues.completions)
    }

    /// Posts the batch, which is empty afterwards.
    ///
    /// # Errors
    /// The library's: no queue pair, or it takes no more. Some of the batch may be under way.
    pub fn post(&mut self, batch: &mut Batch) -> Result<(), Errno> {
        if self.queues.is_none() {
            batch.clear();
            return Err(Errno::NOTCONN);
        }
        // SAFETY: the id is alive and has a queue pair.
        let code = unsafe { batch.post(self.raw.as_ref().qp) };
        if code == 0 { Ok(()) } else { Err(errno(code)) }
    }
}

fn check(code: c_int, call: &'static str) -> Result<(), VerbsError> {
    if code == 0 {
        Ok(())
    } else {
        Err(VerbsError::last(call))
    }
}

fn attributes(queue: *mut Cq, depth: usize) -> QpInitAttr {
    QpInitAttr {
        qp_context: std::ptr::null_mut(),
        send_cq: queue,
        recv_cq: queue,
        srq: std::ptr::null_mut(),
        cap: QpCap {
            max_send_wr: u32::try_from(depth).unwrap_or(u32::MAX),
            max_recv_wr: 1,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
        },
        qp_type: abi::QP_TYPE_RC,
        sq_sig_all: 0,
    }
}

fn parameters(data: &[u8]) -> ConnParam {
    ConnParam {
        private_data: data.as_ptr().cast(),
        private_data_len: u8::try_from(data.len()).unwrap_or_default(),
        responder_resources: abi::DEPTH_MAX,
        initiator_depth: abi::DEPTH_MAX,
        flow_control: 0,
        retry_count: RETRIES,
        rnr_retry_count: RETRIES,
        srq: 0,
        qp_num: 0,
    }
}

/// An address as C has it.
enum Sockaddr {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl From<SocketAddr> for Sockaddr {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(libc::sockaddr_in {
                sin_family: FAMILY_V4,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Self::V6(libc::sockaddr_in6 {
                sin6_family: FAMILY_V6,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }
}

const FAMILY_V4: libc::sa_family_t = 2;
const FAMILY_V6: libc::sa_family_t = 10;
const _: () = assert!(libc::AF_INET == FAMILY_V4 as c_int && libc::AF_INET6 == FAMILY_V6 as c_int);

impl Sockaddr {
    const fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        match self {
            Self::V4(v4) => (&raw mut *v4).cast(),
            Self::V6(v6) => (&raw mut *v6).cast(),
        }
    }
}

fn address_of(storage: &libc::sockaddr_storage) -> SocketAddr {
    let place = &raw const *storage;
    match storage.ss_family {
        FAMILY_V4 => {
            // SAFETY: a storage is long and aligned enough for any address, and the family says
            // which one it is.
            let v4 = unsafe { *place.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port))
        }
        FAMILY_V6 => {
            // SAFETY: as above.
            let v6 = unsafe { *place.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            SocketAddr::new(IpAddr::V6(ip), u16::from_be(v6.sin6_port))
        }
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["10.1.2.3:7001", "[fd00::12]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut place = Sockaddr::from(address);
            // SAFETY: a storage of zeros is valid, and longer than any address.
            let storage = unsafe {
                let mut storage: libc::sockaddr_storage = std::mem::zeroed();
                let len = match &place {
                    Sockaddr::V4(_) => size_of::<libc::sockaddr_in>(),
                    Sockaddr::V6(_) => size_of::<libc::sockaddr_in6>(),
                };
                let to = (&raw mut storage).cast::<u8>();
                to.copy_from_nonoverlapping(place.as_mut_ptr().cast(), len);
                storage
            };
            assert_eq!(address_of(&storage), address);
        }
    }
}
