//! Layouts of libibverbs and librdmacm that this program touches, written by hand.
//!
//! Only what is touched has a name; the rest is padding. Every size and offset is asserted at
//! compile time against the numbers that a C compiler gives for rdma-core's headers (x86_64 and
//! aarch64 agree: all of it is pointers and fixed-size integers). The ABI is stable since
//! rdma-core 15: libibverbs.so.1, librdmacm.so.1.

use std::mem::{offset_of, size_of};

use libc::{c_int, c_void};

/// `RDMA_PS_TCP`: reliable connections.
pub const PORT_SPACE_TCP: c_int = 0x106;
/// `IBV_QPT_RC`.
pub const QP_TYPE_RC: u32 = 2;
/// `IBV_ACCESS_LOCAL_WRITE`.
pub const ACCESS_LOCAL_WRITE: c_int = 1;
/// `IBV_ACCESS_REMOTE_WRITE`.
pub const ACCESS_REMOTE_WRITE: c_int = 2;
/// `IBV_ACCESS_REMOTE_READ`.
pub const ACCESS_REMOTE_READ: c_int = 4;
/// `IBV_WR_RDMA_WRITE`.
pub const OPCODE_WRITE: u32 = 0;
/// `IBV_WR_RDMA_READ`.
pub const OPCODE_READ: u32 = 4;
/// `IBV_SEND_SIGNALED`.
pub const SEND_SIGNALED: u32 = 2;
/// `RDMA_OPTION_ID`.
pub const OPTION_ID: c_int = 0;
/// `RDMA_OPTION_ID_ACK_TIMEOUT`.
pub const OPTION_ID_ACK_TIMEOUT: c_int = 3;
/// `IBV_EVENT_QP_ACCESS_ERR`: the peer used a key that it does not have.
pub const EVENT_QP_ACCESS: u32 = 3;
/// `IBV_QP_STATE`, for queries.
pub const QP_STATE: c_int = 1;
/// `IBV_QPS_ERR`: the queue pair is broken.
pub const QP_STATE_ERROR: u32 = 6;
/// `RDMA_MAX_RESP_RES`, `RDMA_MAX_INIT_DEPTH`: as many reads at once as the device can.
pub const DEPTH_MAX: u8 = 0xff;

/// `struct ibv_context`, as far as it is touched.
#[repr(C)]
pub struct Context {
    device: *mut c_void,
    pub(super) ops: ContextOps,
    cmd_fd: c_int,
    pub(super) async_fd: c_int,
}

/// `struct ibv_context_ops`: the calls that the headers inline.
#[repr(C)]
pub struct ContextOps {
    before_poll: [*mut c_void; 11],
    pub(super) poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut WorkCompletion) -> c_int,
    pub(super) req_notify_cq: unsafe extern "C" fn(*mut Cq, c_int) -> c_int,
    before_post: [*mut c_void; 12],
    pub(super) post_send: unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int,
    after: [*mut c_void; 6],
}

/// `struct ibv_device`, `struct ibv_pd`: never looked into.
#[repr(C)]
pub struct Opaque {
    first: c_void,
}

/// `struct ibv_cq`.
#[repr(C)]
pub struct Cq {
    pub(super) context: *mut Context,
}

/// `struct ibv_comp_channel`.
#[repr(C)]
pub struct CompChannel {
    context: *mut Context,
    pub(super) fd: c_int,
    refcnt: c_int,
}

/// `struct ibv_mr`.
#[repr(C)]
pub struct Mr {
    context: *mut Context,
    pd: *mut Opaque,
    addr: *mut c_void,
    length: usize,
    handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// `struct ibv_qp`.
#[repr(C)]
pub struct Qp {
    pub(super) context: *mut Context,
    before: [*mut c_void; 5],
    handle: u32,
    pub(super) qp_num: u32,
}

/// `struct ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// `struct ibv_send_wr`, for one-sided operations.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: u32,
    pub(super) send_flags: u32,
    pub(super) imm_data: u32,
    pub(super) remote_addr: u64,
    pub(super) rkey: u32,
    pub(super) rest: [u32; 19],
}

impl SendWr {
    pub(super) const EMPTY: Self = Self {
        wr_id: 0,
        next: std::ptr::null_mut(),
        sg_list: std::ptr::null_mut(),
        num_sge: 0,
        opcode: OPCODE_WRITE,
        send_flags: 0,
        imm_data: 0,
        remote_addr: 0,
        rkey: 0,
        rest: [0; 19],
    };
}

/// `struct ibv_wc`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkCompletion {
    /// As given to the post.
    pub wr_id: u64,
    /// 0 for success.
    pub status: u32,
    opcode: u32,
    vendor_err: u32,
    byte_len: u32,
    imm_data: u32,
    qp_num: u32,
    src_qp: u32,
    flags: u32,
    key_and_lid: u32,
    path: u32,
}

/// `struct ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`.
#[repr(C)]
pub struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: u32,
    pub(super) sq_sig_all: c_int,
}

/// `struct ibv_qp_attr`, as far as it is touched.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QpAttr {
    pub(super) qp_state: u32,
    pub(super) rest: [u32; 35],
}

/// `struct ibv_async_event`.
#[repr(C)]
pub struct AsyncEvent {
    pub(super) element: *mut c_void,
    pub(super) event_type: u32,
}

/// `struct rdma_event_channel`.
#[repr(C)]
pub struct CmChannel {
    pub(super) fd: c_int,
}

/// `struct rdma_cm_id`, as far as it is touched.
#[repr(C)]
pub struct CmId {
    pub(super) verbs: *mut Context,
    channel: *mut CmChannel,
    context: *mut c_void,
    pub(super) qp: *mut Qp,
    source: libc::sockaddr_storage,
    pub(super) destination: libc::sockaddr_storage,
}

/// `struct rdma_cm_event`, with the parameters of a connection.
#[repr(C)]
pub struct CmEvent {
    pub(super) id: *mut CmId,
    pub(super) listen_id: *mut CmId,
    pub(super) event: u32,
    pub(super) status: c_int,
    pub(super) param: ConnParam,
}

/// `struct rdma_conn_param`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ConnParam {
    pub(super) private_data: *const c_void,
    pub(super) private_data_len: u8,
    pub(super) responder_resources: u8,
    pub(super) initiator_depth: u8,
    pub(super) flow_control: u8,
    pub(super) retry_count: u8,
    pub(super) rnr_retry_count: u8,
    pub(super) srq: u8,
    pub(super) qp_num: u32,
}

const _: () = {
    assert!(offset_of!(Context, ops) == 8);
    assert!(offset_of!(Context, async_fd) == 268);
    assert!(size_of::<ContextOps>() == 256);
    assert!(offset_of!(ContextOps, poll_cq) == 88);
    assert!(offset_of!(ContextOps, req_notify_cq) == 96);
    assert!(offset_of!(ContextOps, post_send) == 200);
    assert!(offset_of!(CompChannel, fd) == 8);
    assert!(size_of::<CompChannel>() == 16);
    assert!(size_of::<Mr>() == 48);
    assert!(offset_of!(Mr, lkey) == 36);
    assert!(offset_of!(Mr, rkey) == 40);
    assert!(offset_of!(Qp, qp_num) == 52);
    assert!(size_of::<Sge>() == 16);
};
const _: () = {
    assert!(size_of::<SendWr>() == 128);
    assert!(offset_of!(SendWr, next) == 8);
    assert!(offset_of!(SendWr, sg_list) == 16);
    assert!(offset_of!(SendWr, num_sge) == 24);
    assert!(offset_of!(SendWr, opcode) == 28);
    assert!(offset_of!(SendWr, send_flags) == 32);
    assert!(offset_of!(SendWr, remote_addr) == 40);
    assert!(offset_of!(SendWr, rkey) == 48);
    assert!(size_of::<WorkCompletion>() == 48);
    assert!(offset_of!(WorkCompletion, status) == 8);
    assert!(offset_of!(WorkCompletion, qp_num) == 28);
    assert!(size_of::<QpCap>() == 20);
    assert!(size_of::<QpInitAttr>() == 64);
    assert!(offset_of!(QpInitAttr, send_cq) == 8);
    assert!(offset_of!(QpInitAttr, cap) == 32);
    assert!(offset_of!(QpInitAttr, qp_type) == 52);
    assert!(offset_of!(QpInitAttr, sq_sig_all) == 56);
    assert!(size_of::<QpAttr>() == 144);
    assert!(offset_of!(QpAttr, qp_state) == 0);
    assert!(size_of::<AsyncEvent>() == 16);
    assert!(offset_of!(AsyncEvent, event_type) == 8);
};
const _: () = {
    assert!(offset_of!(CmId, qp) == 24);
    assert!(offset_of!(CmId, destination) == 160);
    assert!(offset_of!(CmEvent, listen_id) == 8);
    assert!(offset_of!(CmEvent, event) == 16);
    assert!(offset_of!(CmEvent, status) == 20);
    assert!(offset_of!(CmEvent, param) == 24);
    assert!(size_of::<ConnParam>() == 24);
    assert!(offset_of!(ConnParam, private_data_len) == 8);
    assert!(offset_of!(ConnParam, responder_resources) == 9);
    assert!(offset_of!(ConnParam, initiator_depth) == 10);
    assert!(offset_of!(ConnParam, flow_control) == 11);
    assert!(offset_of!(ConnParam, retry_count) == 12);
    assert!(offset_of!(ConnParam, rnr_retry_count) == 13);
    assert!(offset_of!(ConnParam, srq) == 14);
    assert!(offset_of!(ConnParam, qp_num) == 16);
};
