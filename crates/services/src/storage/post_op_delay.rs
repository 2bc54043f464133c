//! Replication's post-op delay: lifted for the time of planned moves, and put back.
//!
//! After a write a GlusterFS client keeps its inner lock of the file for `cluster.post-op-delay-secs` (1 by default), so
//! that writing in sequence pays for a lock once. A client whose address moves writes through another server next, and
//! waits there until the old one's lock is gone. With the option at 0 it waits for nothing, and writing in sequence takes
//! 2.5 times as long (docs/storage.md): that is for the time of the moves only.
//!
//! What was there before is kept on the volume itself, set by the same command that lifts the delay: whoever leads later
//! finds it, whatever became of who did this.

use std::time::Duration;

use super::pool;
use super::volume::{Volume, VolumeError, change, same_value};

/// The option.
pub const OPTION: &str = "cluster.post-op-delay-secs";
/// While the delay is lifted: what [`OPTION`] was before, or [`UNSET`]. Otherwise absent, or [`IN_FORCE`]. GlusterFS keeps
/// `user.*` and does nothing with it, and 10.3 cannot `volume reset` it.
pub const MARK: &str = "user.steadfast-post-op-delay";
/// [`OPTION`] had its default.
const UNSET: &str = "unset";
/// The delay is not lifted.
const IN_FORCE: &str = "in-force";

/// What a volume's options say of the delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostOpDelay {
    /// No file is kept locked after a write: there is nothing to lift, or the administrator has done so for good.
    Absent,
    /// In force; the option as it was set, or none.
    InForce { set: Option<String> },
    /// Lifted for planned moves; what is to be put back.
    Lifted { before: Option<String> },
    /// Marked as lifted, and is not: somebody has set the option since, or putting it back was broken off. Only the mark
    /// is wrong.
    Marked,
}

impl PostOpDelay {
    /// Is there anything to put back?
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Lifted { .. } | Self::Marked)
    }
}

impl Volume {
    /// What this volume's options say of the delay.
    pub fn post_op_delay(&self) -> PostOpDelay {
        let set = self.options.get(OPTION);
        let lifted = set.is_some_and(|value| value == "0");
        if let Some(mark) = self.options.get(MARK).filter(|mark| *mark != IN_FORCE) {
            // What makes no sense there is not put in force.
            let before = Some(mark.clone()).filter(|value| value.parse::<u32>().is_ok());
            return if lifted { PostOpDelay::Lifted { before } } else { PostOpDelay::Marked };
        }
        let eager = self.options.get("cluster.eager-lock").is_none_or(|value| !same_value(value, "off"));
        if self.replica < 2 || !eager || lifted {
            return PostOpDelay::Absent;
        }
        PostOpDelay::InForce { set: set.cloned() }
    }

    /// Lifts the delay where it is in force, by what glusterd says now. Gives how it is then: [`PostOpDelay::Lifted`] or
    /// [`PostOpDelay::Absent`]. Each question to glusterd may take `deadline`.
    ///
    /// # Errors
    /// glusterd refused or did not answer; it may have done it all the same. [`VolumeError::Unsettled`]: nothing was done.
    pub async fn lift_post_op_delay(volume: &str, deadline: Duration) -> Result<PostOpDelay, VolumeError> {
        let mut now = Self::settings(volume, deadline).await?.post_op_delay();
        if now != PostOpDelay::Absent {
            settled(deadline).await?;
        }
        if now == PostOpDelay::Marked {
            change(&["volume", "set", volume, MARK, IN_FORCE], deadline).await?;
            now = Self::settings(volume, deadline).await?.post_op_delay();
        }
        let PostOpDelay::InForce { set: before } = now else { return Ok(now) };
        let mark = before.as_deref().unwrap_or(UNSET);
        change(&["volume", "set", volume, OPTION, "0", MARK, mark], deadline).await?;
        Ok(PostOpDelay::Lifted { before })
    }

    /// Puts back what was there before, if glusterd says now that the delay is lifted. Gives how it is then. `patient`:
    /// not while a server of the pool has not settled with this one.
    ///
    /// # Errors
    /// As [`Volume::lift_post_op_delay`].
    pub async fn put_back_post_op_delay(
        volume: &str,
        deadline: Duration,
        patient: bool,
    ) -> Result<PostOpDelay, VolumeError> {
        let now = Self::settings(volume, deadline).await?.post_op_delay();
        if patient && now.is_ours() {
            settled(deadline).await?;
        }
        let before = match now {
            PostOpDelay::Lifted { before } => before,
            PostOpDelay::Marked => {
                change(&["volume", "set", volume, MARK, IN_FORCE], deadline).await?;
                return Ok(Self::settings(volume, deadline).await?.post_op_delay());
            }
            now @ (PostOpDelay::Absent | PostOpDelay::InForce { .. }) => return Ok(now),
        };
        match &before {
            Some(value) => change(&["volume", "set", volume, OPTION, value, MARK, IN_FORCE], deadline).await?,
            None => {
                change(&["volume", "reset", volume, OPTION], deadline).await?;
                // Last: until here the next one to look finds it.
                change(&["volume", "set", volume, MARK, IN_FORCE], deadline).await?;
            }
        }
        Ok(PostOpDelay::InForce { set: before })
    }
}

/// Not while a server is starting, or away.
async fn settled(deadline: Duration) -> Result<(), VolumeError> {
    match pool::unsettled(deadline).await? {
        servers if servers.is_empty() => Ok(()),
        servers => Err(VolumeError::Unsettled { servers }),
    }
}

/// What an administrator types to put the default back.
pub fn by_hand(volume: &str) -> String {
    format!("gluster volume reset {volume} {OPTION}")
}
