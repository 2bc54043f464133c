//! Requests of clients, read from their control packets.

use super::ip::{Iface, TickleList};
use super::opcode::Opcode;
use crate::wire::{Connection, LtdbHeader, Reader, RecordBuffer, SockAddr, WireError, text};
use std::net::{IpAddr, SocketAddr};

/// A record that a client has emptied (`SCHEDULE_FOR_DELETION`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteLater {
    pub db: u32,
    pub header: LtdbHeader,
    pub key: Vec<u8>,
}

/// What a client asks. Questions without data and without meaning for the core's state are told by their opcode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// One without data.
    Plain(Opcode),
    /// One about a database: `GETDBPATH`, `GET_DBNAME`, `ENABLE_SEQNUM`, `DB_OPEN_FLAGS`, `SET_DB_READONLY`,
    /// `DB_GET_HEALTH`...
    Database(Opcode, u32),
    /// `DB_ATTACH`, `DB_ATTACH_PERSISTENT`, `DB_ATTACH_REPLICATED`.
    Attach(Opcode, String),
    /// `REGISTER_SRVID`, `DEREGISTER_SRVID`, `TUNNEL_REGISTER`, `TUNNEL_DEREGISTER`.
    Srvid(Opcode, u64),
    /// Is there a client with this process number?
    ProcessExists(i32),
    /// Has a client with this process number registered this number?
    CheckPidSrvid(i32, u64),
    /// `TCP_CLIENT` and its relatives, `TCP_ADD`, `TCP_REMOVE`.
    Connection(Opcode, Connection),
    /// `SET_TCP_TICKLE_LIST`.
    Connections(TickleList),
    /// `GET_TCP_TICKLE_LIST`, `GET_PUBLIC_IP_INFO`.
    Address(Opcode, SocketAddr),
    /// `RELEASE_IP`, `TAKEOVER_IP`: the address and who shall have it.
    MoveIp(Opcode, u32, IpAddr),
    /// `ADD_PUBLIC_IP`: address, length of the prefix, interface.
    AddIp(IpAddr, u32, String),
    /// `DEL_PUBLIC_IP`.
    DeleteIp(IpAddr),
    /// `SEND_GRATUITOUS_ARP`: address, interface.
    Announce(IpAddr, String),
    /// `SET_IFACE_LINK_STATE`.
    Link(Iface),
    /// One `u32`: `SET_DEBUG`, `SET_RECMODE`, `SET_LMASTERROLE`, `SET_RECMASTERROLE`.
    Number(Opcode, u32),
    /// `SET_BAN_STATE`: node and seconds.
    Ban(u32, u32),
    SetTunable(String, u32),
    GetTunable(String),
    /// `TRAVERSE_START`, `TRAVERSE_START_EXT`: database, number of the request, where records go, with empty ones.
    Traverse {
        db: u32,
        reqid: u32,
        srvid: u64,
        empty: bool,
    },
    /// A persistent transaction.
    Commit(RecordBuffer),
    /// `UPDATE_RECORD`: records as they shall be.
    Update(RecordBuffer),
    DeleteLater(DeleteLater),
    /// A message to be sent when the client is gone.
    RegisterNotify(u64, Vec<u8>),
    DeregisterNotify(u64),
    /// `WIPE_DATABASE`, `DB_TRANSACTION_START`, `DB_TRANSACTION_COMMIT`: database and transaction.
    Transaction(Opcode, u32, u32),
    /// `DB_PUSH_START`: database and where records come from.
    Push(u32, u64),
    /// Comes back as it is.
    Echo(Vec<u8>),
    /// `DB_VACUUM`: of all records, or only of those in the queue.
    Vacuum(u32, bool),
}

/// All of the data must be used, but for padding of less than a word that the original's structures end with.
fn exactly(what: &'static str, data: &[u8], wants: usize) -> Result<(), WireError> {
    if data.len() == wants { Ok(()) } else { Err(WireError::Size { what, wants, got: data.len() }) }
}

impl Request {
    /// Reads what a control packet asks.
    ///
    /// # Errors
    /// `Ok(None)`: no control that is answered; `Err`: one with data that it cannot have. Both get status -1.
    pub fn decode(opcode: Opcode, srvid: u64, data: &[u8]) -> Result<Option<Self>, WireError> {
        use Opcode as O;
        let mut r = Reader::new(data);
        let what = opcode.name().unwrap_or("control");
        Ok(Some(match opcode {
            // The original looks at the size of none of these.
            O::PING | O::GET_RECMODE | O::GET_PID | O::GET_PNN | O::UPTIME | O::GET_CAPABILITIES | O::LIST_TUNABLES => {
                Self::Plain(opcode)
            }
            O::STATISTICS
            | O::GETVNNMAP
            | O::GET_DEBUG
            | O::GET_DBMAP
            | O::STATISTICS_RESET
            | O::DUMP_MEMORY
            | O::SHUTDOWN
            | O::GET_ALL_TUNABLES
            | O::RELOAD_NODES_FILE
            | O::GET_PUBLIC_IPS
            | O::GET_NODEMAP
            | O::GET_RECLOCK_FILE
            | O::STOP_NODE
            | O::CONTINUE_NODE
            | O::GET_BAN_STATE
            | O::GET_IFACES
            | O::GET_STAT_HISTORY
            | O::RELOAD_PUBLIC_IPS
            | O::IPREALLOCATED
            | O::START_IPREALLOCATE
            | O::GET_RUNSTATE
            | O::GET_NODES_FILE
            | O::DISABLE_NODE
            | O::ENABLE_NODE => {
                exactly(what, data, 0)?;
                Self::Plain(opcode)
            }
            O::GETDBPATH
            | O::GET_DBNAME
            | O::ENABLE_SEQNUM
            | O::DB_SET_HEALTHY
            | O::DB_GET_HEALTH
            | O::SET_DB_READONLY
            | O::SET_DB_STICKY
            | O::GET_DB_STATISTICS
            | O::DB_DETACH
            | O::DB_FREEZE
            | O::DB_THAW
            | O::DB_OPEN_FLAGS
            | O::DB_TRANSACTION_CANCEL
            | O::DB_PUSH_CONFIRM
            | O::START_PERSISTENT_UPDATE
            | O::CANCEL_PERSISTENT_UPDATE => {
                exactly(what, data, 4)?;
                Self::Database(opcode, r.u32(what)?)
            }
            O::GET_DB_SEQNUM => {
                exactly(what, data, 8)?;
                let db = r.u64(what)?;
                let db = u32::try_from(db).map_err(|_| WireError::Value { what, value: db })?;
                Self::Database(opcode, db)
            }
            O::DB_ATTACH | O::DB_ATTACH_PERSISTENT | O::DB_ATTACH_REPLICATED => {
                Self::Attach(opcode, text(data, "name of a database")?.to_owned())
            }
            O::REGISTER_SRVID | O::DEREGISTER_SRVID | O::TUNNEL_REGISTER | O::TUNNEL_DEREGISTER => {
                Self::Srvid(opcode, srvid)
            }
            O::PROCESS_EXISTS => {
                exactly(what, data, 4)?;
                Self::ProcessExists(r.i32(what)?)
            }
            O::CHECK_PID_SRVID => {
                exactly(what, data, 12)?;
                Self::CheckPidSrvid(r.i32(what)?, r.u64(what)?)
            }
            O::TCP_CLIENT
            | O::TCP_ADD
            | O::TCP_REMOVE
            | O::TCP_ADD_DELAYED_UPDATE
            | O::TCP_CLIENT_DISCONNECTED
            | O::TCP_CLIENT_PASSED => {
                exactly(what, data, 56)?;
                Self::Connection(opcode, Connection::get(&mut r)?)
            }
            O::SET_TCP_TICKLE_LIST => Self::Connections(TickleList::get(data)?),
            O::GET_TCP_TICKLE_LIST | O::GET_PUBLIC_IP_INFO => {
                exactly(what, data, 28)?;
                Self::Address(opcode, SockAddr::get(&mut r)?.0)
            }
            O::RELEASE_IP | O::TAKEOVER_IP => {
                exactly(what, data, 32)?;
                let pnn = r.u32(what)?;
                Self::MoveIp(opcode, pnn, SockAddr::get(&mut r)?.0.ip())
            }
            O::ADD_PUBLIC_IP | O::DEL_PUBLIC_IP | O::SEND_GRATUITOUS_ARP => {
                let (address, prefix) = (SockAddr::get(&mut r)?.0.ip(), r.u32(what)?);
                let iface = r.counted_text("interface")?.to_owned();
                match opcode {
                    O::DEL_PUBLIC_IP => Self::DeleteIp(address),
                    O::ADD_PUBLIC_IP => Self::AddIp(address, prefix, iface),
                    _ => Self::Announce(address, iface),
                }
            }
            O::SET_IFACE_LINK_STATE => Self::Link(Iface::get(&mut r)?),
            O::SET_DEBUG | O::SET_RECMODE | O::SET_LMASTERROLE | O::SET_RECMASTERROLE => {
                exactly(what, data, 4)?;
                Self::Number(opcode, r.u32(what)?)
            }
            O::SET_BAN_STATE => {
                exactly(what, data, 8)?;
                Self::Ban(r.u32(what)?, r.u32(what)?)
            }
            O::SET_TUNABLE => {
                let value = r.u32(what)?;
                Self::SetTunable(r.counted_text("name of a tunable")?.to_owned(), value)
            }
            O::GET_TUNABLE => Self::GetTunable(r.counted_text("name of a tunable")?.to_owned()),
            O::TRAVERSE_START => {
                exactly(what, data, 16)?;
                Self::Traverse { db: r.u32(what)?, reqid: r.u32(what)?, srvid: r.u64(what)?, empty: false }
            }
            O::TRAVERSE_START_EXT => {
                exactly(what, data, 24)?;
                let (db, reqid, srvid) = (r.u32(what)?, r.u32(what)?, r.u64(what)?);
                Self::Traverse { db, reqid, srvid, empty: r.u8(what)? != 0 }
            }
            O::TRANS3_COMMIT => Self::Commit(RecordBuffer::get(data)?),
            O::UPDATE_RECORD => Self::Update(RecordBuffer::get(data)?),
            O::SCHEDULE_FOR_DELETION => {
                let db = r.u32(what)?;
                r.u32(what)?;
                let (header, _) = LtdbHeader::split(r.take(24, what)?)?;
                Self::DeleteLater(DeleteLater { db, header, key: r.counted("key")?.to_vec() })
            }
            O::REGISTER_NOTIFY => {
                let srvid = r.u64(what)?;
                Self::RegisterNotify(srvid, r.counted("message")?.to_vec())
            }
            O::DEREGISTER_NOTIFY => {
                exactly(what, data, 8)?;
                Self::DeregisterNotify(r.u64(what)?)
            }
            O::WIPE_DATABASE | O::DB_TRANSACTION_START | O::DB_TRANSACTION_COMMIT => {
                exactly(what, data, 8)?;
                Self::Transaction(opcode, r.u32(what)?, r.u32(what)?)
            }
            O::DB_PUSH_START => {
                exactly(what, data, 16)?;
                let db = r.u32(what)?;
                // The location master that the original sends here is not set.
                r.u32(what)?;
                Self::Push(db, r.u64(what)?)
            }
            O::ECHO_DATA => {
                r.u32(what)?;
                r.counted("data to be echoed")?;
                Self::Echo(data.to_vec())
            }
            O::DB_VACUUM => {
                exactly(what, data, 5)?;
                Self::Vacuum(r.u32(what)?, r.u8(what)? != 0)
            }
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(opcode: Opcode, data: &[u8]) -> Result<Option<Request>, WireError> {
        Request::decode(opcode, 99, data)
    }

    #[test]
    fn requests_as_smbd_sends_them() {
        assert_eq!(
            read(Opcode::DB_ATTACH, b"g_lock.tdb\0").unwrap(),
            Some(Request::Attach(Opcode::DB_ATTACH, "g_lock.tdb".into()))
        );
        assert_eq!(
            read(Opcode::GETDBPATH, &0x4d2a_432b_u32.to_ne_bytes()).unwrap(),
            Some(Request::Database(Opcode::GETDBPATH, 0x4d2a_432b))
        );
        assert_eq!(read(Opcode::REGISTER_SRVID, b"").unwrap(), Some(Request::Srvid(Opcode::REGISTER_SRVID, 99)));
        let mut pid = 4711i32.to_ne_bytes().to_vec();
        pid.extend(7u64.to_ne_bytes());
        assert_eq!(read(Opcode::CHECK_PID_SRVID, &pid).unwrap(), Some(Request::CheckPidSrvid(4711, 7)));
    }

    #[test]
    fn sizes_are_checked_where_the_original_checks_them() {
        assert!(read(Opcode::GET_PNN, b"ignored").unwrap().is_some());
        assert!(read(Opcode::GET_NODEMAP, b"x").is_err());
        assert!(read(Opcode::GET_DB_SEQNUM, &[0; 4]).is_err(), "eight bytes, not four");
        assert!(read(Opcode::DB_ATTACH, b"no end").is_err());
        assert!(read(Opcode::DB_ATTACH, b"").is_err());
        assert_eq!(read(Opcode(12), b"").unwrap(), None, "never assigned");
        assert_eq!(read(Opcode(10), b"").unwrap(), None, "obsolete");
    }

    proptest! {
        #[test]
        fn any_control_is_survived(opcode in 0u32..170, srvid: u64, data in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Request::decode(Opcode(opcode), srvid, &data);
        }
    }
}
