//! Reading all records of a file that is in use, in a thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use ctdb::database::Token;
use ctdb::server::{FileAnswer, Which};
use ctdb::wire::LtdbHeader;
use tdb::{Tdb, Waiter};

use super::database::{Database, Work, cancelled};
use super::pieces::Pieces;
use crate::priority;

impl Database {
    pub(super) fn traverse(
        self: &Arc<Self>,
        main: &Tdb,
        work: &mut Work,
        token: Token,
        held_by: Option<u32>,
        which: Which,
    ) -> tdb::Result<()> {
        let database = self.clone();
        let waiter = Waiter::run(main, move |handle| walk(&database, handle, token, held_by, which))?;
        work.traverses.insert(token.0, waiter);
        Ok(())
    }
}

fn walk(database: &Database, mut handle: Tdb, token: Token, held_by: Option<u32>, which: Which) {
    priority::unhurried();
    let mut pieces = Pieces::new(|records, last| {
        database.answer(FileAnswer::Traversed { token, records, last });
    });
    let read = handle.traverse_read(|_, key, value| {
        // What has no header is no record of a cluster.
        if let Ok((header, data)) = LtdbHeader::split(value)
            && held_by.is_none_or(|node| header.dmaster == node)
            && which.has(data.is_empty())
        {
            pieces.push((key.to_vec(), value.to_vec()), key.len() + value.len());
        }
        Ok(ControlFlow::Continue(()))
    });
    let stopped = match read {
        Ok(_) => false,
        Err(error) if cancelled(&error) => true,
        Err(error) => {
            database.damaged(&error.to_string());
            false
        }
    };
    let own = database.while_open(|_, work| work.traverses.remove(&token.0).map(Waiter::detach)).flatten();
    if !stopped && own.is_some() {
        pieces.finish();
    }
}
