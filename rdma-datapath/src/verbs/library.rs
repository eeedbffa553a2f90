//! libibverbs and librdmacm, loaded at run time: a host without them runs TCP.
//!
//! Owns the two libraries for the life of the process (they start threads of their own and are
//! never unloaded) and the list of the host's RDMA devices.

use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use libc::{c_int, c_void, size_t, sockaddr};
use libloading::Library;
use rustix::io::Errno;
use thiserror::Error;

use super::abi::{
    AsyncEvent, CmChannel, CmEvent, CmId, CompChannel, ConnParam, Context, Cq, Mr, Opaque, Qp,
    QpAttr, QpInitAttr,
};

/// Why this host has no RDMA.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerbsError {
    /// A library is not there, or too old.
    #[error("{0} (package rdma-core)")]
    Library(String),
    /// This program is linked statically and must not load another C library.
    #[error("this program is linked statically and cannot load libibverbs")]
    Static,
    /// The kernel has no RDMA device.
    #[error("the host has no RDMA device")]
    NoDevice,
    /// A call was refused.
    #[error("{call}: {errno}")]
    Call {
        /// Which.
        call: &'static str,
        /// The host's answer.
        errno: Errno,
    },
}

impl VerbsError {
    /// The last error of the thread, as that of `call`.
    pub(super) fn last(call: &'static str) -> Self {
        let code = std::io::Error::last_os_error().raw_os_error();
        let errno = errno(code.unwrap_or_default());
        Self::Call { call, errno }
    }
}

/// A library's code as an errno: some give it as it is, some negated, and some statuses of events
/// are none.
pub(super) fn errno(code: i32) -> Errno {
    match code.unsigned_abs() {
        1..=4095 => Errno::from_raw_os_error(code.wrapping_abs()),
        _ => Errno::IO,
    }
}

macro_rules! functions {
    ($name:ident in $file:literal { $($f:ident($($argument:ty),*) $(-> $result:ty)?;)* }) => {
        #[derive(Debug)]
        pub(super) struct $name {
            $(pub(super) $f: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _library: Library,
        }

        impl $name {
            fn load() -> Result<Self, VerbsError> {
                let absent = |error: libloading::Error| VerbsError::Library(error.to_string());
                // SAFETY: the libraries' initialisers only set up their own state, and both come
                // from the host's system folders by their plain names.
                let library = unsafe { Library::new($file) }.map_err(absent)?;
                Ok(Self {
                    $($f: {
                        // SAFETY: the type is that of the function in rdma-core's public headers,
                        // whose ABI the version in the file's name fixes.
                        *unsafe { library.get(concat!(stringify!($f), "\0").as_bytes()) }
                            .map_err(absent)?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

functions! { Ibverbs in "libibverbs.so.1" {
    ibv_get_device_name(*mut c_void) -> *const libc::c_char;
    ibv_alloc_pd(*mut Context) -> *mut Opaque;
    ibv_dealloc_pd(*mut Opaque) -> c_int;
    ibv_reg_mr(*mut Opaque, *mut c_void, size_t, c_int) -> *mut Mr;
    ibv_reg_mr_iova(*mut Opaque, *mut c_void, size_t, u64, c_int) -> *mut Mr;
    ibv_dereg_mr(*mut Mr) -> c_int;
    ibv_create_comp_channel(*mut Context) -> *mut CompChannel;
    ibv_destroy_comp_channel(*mut CompChannel) -> c_int;
    ibv_create_cq(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
    ibv_destroy_cq(*mut Cq) -> c_int;
    ibv_query_qp(*mut Qp, *mut QpAttr, c_int, *mut QpInitAttr) -> c_int;
    ibv_get_cq_event(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events(*mut Cq, u32);
    ibv_get_async_event(*mut Context, *mut AsyncEvent) -> c_int;
    ibv_ack_async_event(*mut AsyncEvent);
} }

functions! { Rdmacm in "librdmacm.so.1" {
    rdma_get_devices(*mut c_int) -> *mut *mut Context;
    rdma_create_event_channel() -> *mut CmChannel;
    rdma_destroy_event_channel(*mut CmChannel);
    rdma_create_id(*mut CmChannel, *mut *mut CmId, *mut c_void, c_int) -> c_int;
    rdma_destroy_id(*mut CmId) -> c_int;
    rdma_bind_addr(*mut CmId, *mut sockaddr) -> c_int;
    rdma_listen(*mut CmId, c_int) -> c_int;
    rdma_get_src_port(*mut CmId) -> u16;
    rdma_resolve_addr(*mut CmId, *mut sockaddr, *mut sockaddr, c_int) -> c_int;
    rdma_resolve_route(*mut CmId, c_int) -> c_int;
    rdma_set_option(*mut CmId, c_int, c_int, *mut c_void, size_t) -> c_int;
    rdma_create_qp(*mut CmId, *mut Opaque, *mut QpInitAttr) -> c_int;
    rdma_destroy_qp(*mut CmId);
    rdma_connect(*mut CmId, *mut ConnParam) -> c_int;
    rdma_accept(*mut CmId, *mut ConnParam) -> c_int;
    rdma_reject(*mut CmId, *const c_void, u8) -> c_int;
    rdma_disconnect(*mut CmId) -> c_int;
    rdma_get_cm_event(*mut CmChannel, *mut *mut CmEvent) -> c_int;
    rdma_ack_cm_event(*mut CmEvent) -> c_int;
} }

/// Both libraries and the host's devices. There is one, for the life of the process.
pub struct Verbs {
    pub(super) ibv: Ibverbs,
    pub(super) cm: Rdmacm,
    contexts: Vec<NonNull<Context>>,
}

// SAFETY: both libraries may be called from any thread, and the contexts that they opened belong
// to no thread; the list does not change after it was read.
unsafe impl Send for Verbs {}
// SAFETY: as above.
unsafe impl Sync for Verbs {}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verbs")
            .field("devices", &self.contexts.len())
            .finish_non_exhaustive()
    }
}

static LOADED: OnceLock<Result<Verbs, VerbsError>> = OnceLock::new();

impl Verbs {
    /// Loads the libraries and opens the devices, once; later calls give the same answer.
    ///
    /// # Errors
    /// See [`VerbsError`]: the host has no RDMA, and why.
    pub fn load() -> Result<&'static Self, VerbsError> {
        let loaded = LOADED.get_or_init(Self::open);
        loaded.as_ref().map_err(VerbsError::clone)
    }

    fn open() -> Result<Self, VerbsError> {
        if cfg!(target_feature = "crt-static") {
            // Two C libraries in one process have two errnos, at best.
            return Err(VerbsError::Static);
        }
        let mut verbs = Self {
            ibv: Ibverbs::load()?,
            cm: Rdmacm::load()?,
            contexts: Vec::new(),
        };
        let mut count = 0;
        // SAFETY: the pointer is to a living integer.
        let list = unsafe { (verbs.cm.rdma_get_devices)(&raw mut count) };
        if list.is_null() {
            return match VerbsError::last("rdma_get_devices") {
                VerbsError::Call {
                    errno: Errno::NODEV | Errno::NOENT | Errno::NOSYS,
                    ..
                } => Err(VerbsError::NoDevice),
                error => Err(error),
            };
        }
        for index in 0..usize::try_from(count).unwrap_or_default() {
            // SAFETY: the library gave an array of `count` contexts. It is never given back, so
            // that the contexts stay open as long as the process lives.
            let context = unsafe { *list.add(index) };
            verbs.contexts.extend(NonNull::new(context));
        }
        if verbs.contexts.is_empty() {
            return Err(VerbsError::NoDevice);
        }
        Ok(verbs)
    }

    pub(super) fn contexts(&self) -> impl Iterator<Item = NonNull<Context>> + '_ {
        self.contexts.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_code_is_an_errno() {
        assert_eq!(errno(110), Errno::TIMEDOUT);
        assert_eq!(errno(-110), Errno::TIMEDOUT);
        for none in [0, 4096, i32::MIN, i32::MAX] {
            assert_eq!(errno(none), Errno::IO);
        }
    }

    #[test]
    fn host_without_rdma_says_so_in_one_sentence() {
        match Verbs::load() {
            Ok(verbs) => assert!(verbs.contexts().count() > 0),
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
}
