//! Tells when this node's bricks have what their copies lack: a standing warning not to take it down.

use std::time::Duration;

use cluster::Input;
use services::storage::heals::Counter;
use services::storage::{HelperCommand, Volume};
use tokio::time::{Instant, sleep};

use super::inbox::Inbox;

/// Between two counts: each lists a directory per brick.
const EVERY: Duration = Duration::from_secs(5);
/// Counts in a row that must find something: what waits for less is healed before anybody could act on it.
const IN_A_ROW: u32 = 2;
/// Of the standing warning.
const KEY: &str = "heals";

/// Counts and warns, between the looks at the volume's settings.
#[derive(Debug)]
pub(super) struct Heals {
    inbox: Inbox,
    /// This node's name, and the addresses that bricks may name it by.
    name: String,
    own: Vec<String>,
    counter: Option<(Volume, Counter)>,
    found: u32,
    said: String,
}

impl Heals {
    /// `own` is the name first. A warning that an earlier configuration left is taken back.
    pub(super) fn new(inbox: Inbox, own: Vec<String>) -> Self {
        // Taken back without being asked whether it stands: it may be an earlier task's.
        inbox.input(Input::Warning { key: KEY.to_owned(), text: String::new() });
        let name = own.first().cloned().unwrap_or_default();
        Self { inbox, name, own, counter: None, found: 0, said: String::new() }
    }

    /// The volume as it is now.
    pub(super) fn of(&mut self, volume: Volume) {
        if self.counter.as_ref().is_some_and(|(counted, _)| counted.bricks == volume.bricks) {
            return;
        }
        let counter = Counter::new(&volume, &self.own, &HelperCommand::this_program());
        self.counter = counter.map(|counter| (volume, counter));
        if self.counter.is_none() {
            self.warn(String::new());
        }
    }

    /// Goes on with it for so long.
    pub(super) async fn watch(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some((volume, counter)) = self.counter.as_mut().filter(|_| !left.is_zero()) else {
                return sleep(left).await;
            };
            let text = match counter.count().await {
                Ok(waiting) => waiting.warning(volume, &self.name),
                Err(error) => {
                    Some(format!("whether files of volume {} wait for healing is not known: {error}", volume.name))
                }
            };
            self.found = if text.is_some() { self.found.saturating_add(1) } else { 0 };
            match text {
                Some(text) if self.found >= IN_A_ROW => self.warn(text),
                Some(_) => {}
                None => self.warn(String::new()),
            }
            sleep(EVERY.min(left)).await;
        }
    }

    fn warn(&mut self, text: String) {
        if self.said != text {
            self.inbox.input(Input::Warning { key: KEY.to_owned(), text: text.clone() });
            self.said = text;
        }
    }
}
