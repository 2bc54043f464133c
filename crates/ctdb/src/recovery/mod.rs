//! After every change of the view, and when something went wrong: all members agree on the content of every database
//! again, each database by itself, side by side.
//!
//! The view's leader conducts. It asks every member for its databases ([`Word::Hello`]), and then for each database:
//! all members stop it ([`Word::Stop`], which waits for the chain locks of Samba's processes), then say what they have;
//! volatile: every member tells each key's location master about its copy; that decides ([`merge`]), and data moves
//! only where a holder is lost; persistent: whoever has another content than the best gets all of it, in one
//! transaction; when all are done, all go on ([`Word::Go`]). A new database takes the same way, one about which members
//! disagree too; the others do not notice. What is said under an older [`Generation`] is dropped.
//!
//! Members that are stopped or banned take part in this with what they have, but are no location masters, and hold no
//! records afterwards; who that is the leader says with each recovery.
//!
//! No member goes on before the leader was told that the nodes which the view dropped can do no harm any more: their
//! leases are over and every member has evicted them.

mod effect;
mod finished;
mod lead;
mod member;
mod merge;
mod word;

pub use effect::{Answer, Effect};
pub use lead::{Lead, Orders};
pub use member::{Member, Phase};
pub use merge::{Claim, Decision, Merge, Verdict};
pub use word::{Content, Edit, Generation, Have, Standing, Word};
