//! Numbers of the controls.

use std::fmt;

/// Flags of a control packet.
pub mod flags {
    /// No answer is wanted.
    pub const NOREPLY: u32 = 0x1;
    /// `GET_PUBLIC_IPS`: only those that could be hosted now.
    pub const ONLY_AVAILABLE: u32 = 0x0001_0000;
}

/// Number of a control; those without a name here are answered with status -1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Opcode(pub u32);

macro_rules! opcodes {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Opcode {
            $(#[allow(missing_docs, reason = "the original's own names")] pub const $name: Self = Self($number);)*

            /// The original's name, for logs.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    PROCESS_EXISTS = 0, STATISTICS = 1, PING = 3, GETDBPATH = 4, GETVNNMAP = 5, GET_DEBUG = 7, SET_DEBUG = 8,
    GET_DBMAP = 9, GET_RECMODE = 15, SET_RECMODE = 16, STATISTICS_RESET = 17, DB_ATTACH = 18, TRAVERSE_START = 20,
    REGISTER_SRVID = 23, DEREGISTER_SRVID = 24, GET_DBNAME = 25, ENABLE_SEQNUM = 26, DUMP_MEMORY = 29, GET_PID = 30,
    GET_PNN = 35, SHUTDOWN = 36, TCP_CLIENT = 44, TCP_ADD = 45, TCP_REMOVE = 46, SET_TUNABLE = 48, GET_TUNABLE = 49,
    LIST_TUNABLES = 50, GET_ALL_TUNABLES = 53, GET_TCP_TICKLE_LIST = 55,
    SET_TCP_TICKLE_LIST = 56, DB_ATTACH_PERSISTENT = 61,
    SEND_GRATUITOUS_ARP = 64, WIPE_DATABASE = 67, UPTIME = 69, RELOAD_NODES_FILE = 72, ADD_PUBLIC_IP = 77,
    UPDATE_RECORD = 63, DEL_PUBLIC_IP = 78, GET_CAPABILITIES = 80, START_PERSISTENT_UPDATE = 81, CANCEL_PERSISTENT_UPDATE = 82,
    RELEASE_IP = 88, TAKEOVER_IP = 89, GET_PUBLIC_IPS = 90, GET_NODEMAP = 91, GET_RECLOCK_FILE = 99, STOP_NODE = 101,
    CONTINUE_NODE = 102, SET_LMASTERROLE = 104, SET_RECMASTERROLE = 105, SET_BAN_STATE = 109, GET_BAN_STATE = 110,
    REGISTER_NOTIFY = 114, DEREGISTER_NOTIFY = 115, TRANS3_COMMIT = 119, GET_DB_SEQNUM = 120, DB_SET_HEALTHY = 121,
    DB_GET_HEALTH = 122, GET_PUBLIC_IP_INFO = 123, GET_IFACES = 124, SET_IFACE_LINK_STATE = 125,
    TCP_ADD_DELAYED_UPDATE = 126, GET_STAT_HISTORY = 127, SCHEDULE_FOR_DELETION = 128, SET_DB_READONLY = 129,
    TRAVERSE_START_EXT = 131, GET_DB_STATISTICS = 132, SET_DB_STICKY = 133, RELOAD_PUBLIC_IPS = 134,
    IPREALLOCATED = 137, GET_RUNSTATE = 138, DB_DETACH = 139, GET_NODES_FILE = 140, DB_FREEZE = 141, DB_THAW = 142,
    DB_TRANSACTION_START = 143, DB_TRANSACTION_COMMIT = 144, DB_TRANSACTION_CANCEL = 145, DB_PULL = 146,
    DB_PUSH_START = 147, DB_PUSH_CONFIRM = 148, DB_OPEN_FLAGS = 149, DB_ATTACH_REPLICATED = 150,
    CHECK_PID_SRVID = 151, TUNNEL_REGISTER = 152, TUNNEL_DEREGISTER = 153, DB_VACUUM = 155, ECHO_DATA = 156,
    DISABLE_NODE = 157, ENABLE_NODE = 158, TCP_CLIENT_DISCONNECTED = 159, TCP_CLIENT_PASSED = 160,
    START_IPREALLOCATE = 161, PUSH_RECORD = 162,
}

impl fmt::Debug for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "control {}", self.0),
        }
    }
}
impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
