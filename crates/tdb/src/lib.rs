//! TDB files, the key-value files of Samba and CTDB, read and written by this program **while** Samba uses them.
//!
//! The format and every lock are libtdb's. Locks are open-file-description locks (see `ofd`): they stand against
//! libtdb's, need no helper process to wait for them, and two handles in one process exclude each other.
//!
//! Layers, from below: `storage` (bytes), `ofd` (locked bytes), `db` (the open file), `locks` (what the bytes stand for),
//! `freelist`, `records`, then `traverse`, `transaction` over `overlay`, `check`.
//!
//! What is not there: files locked with mutexes (libtdb's `TDB_MUTEX_LOCKING`) and files of the other byte order are
//! refused; the daemon tells its clients which flags to use.

mod check;
mod db;
mod error;
mod flags;
mod format;
mod freelist;
mod locks;
mod ofd;
mod overlay;
mod records;
mod storage;
mod transaction;
mod traverse;
mod wait;

pub use check::Summary;
pub use db::{Options, Tdb};
pub use error::{Error, Result};
pub use flags::Flags;
pub use ofd::{Kind, Wait};
pub use records::Store;
pub use wait::{Target, Waiter};
