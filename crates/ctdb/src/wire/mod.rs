//! CTDB's client protocol: what travels over the unix socket between the daemon and Samba or the `ctdb` tool.
//!
//! A stream of packets, each with a 32-byte header. All integers are the machine's own (little endian here), laid out
//! as C structures of a 64-bit machine. Decoding checks every length against the packet; bytes after the declared
//! payload are padding and ignored. Encoding pads to a multiple of eight and counts the padding in the packet's
//! length, as the original does.

mod address;
mod bytes;
mod frames;
mod header;
mod packet;
mod record;

pub use address::{CONNECTION_LEN, Connection, SOCK_ADDR_LEN, SockAddr};
pub use bytes::{Reader, WireError, Writer, text};
pub use frames::{Frames, MAX_PACKET};
pub use header::{HEADER_LEN, Header, MAGIC, Operation, VERSION};
pub use packet::{Body, Call, CallReply, Control, ControlReply, Message, Packet, Tunnel};
pub use record::{LTDB_HEADER_LEN, LtdbHeader, Record, RecordBuffer, record_flags};
