//! GlusterFS's pool of servers, as glusterd on this one sees it.

use std::time::Duration;

use roxmltree::Node;

use super::volume::{VolumeError, document, gluster, text};

/// `Peer in Cluster`: each of the two has taken over the other's volumes (GlusterFS, glusterd-sm.h).
const BEFRIENDED: &str = "3";

/// The other servers of the pool that have not settled with this one: not connected, or still comparing their volumes. A
/// volume whose settings change now reaches them later, as a whole, which restarts their bricks and has crashed their
/// glusterd (docs/storage.md).
///
/// # Errors
/// glusterd refused or did not answer.
pub(super) async fn unsettled(deadline: Duration) -> Result<Vec<String>, VolumeError> {
    parse(&gluster(&["peer", "status"], deadline).await?)
}

fn parse(xml: &str) -> Result<Vec<String>, VolumeError> {
    let command = "peer status";
    let document = document(command, xml)?;
    let status = document.descendants().find(|n| n.has_tag_name("peerStatus"));
    let status = status.ok_or_else(|| VolumeError::Unreadable {
        command: command.to_owned(),
        why: "no peerStatus in it".to_owned(),
    })?;
    let settled =
        |peer: &Node<'_, '_>| text(*peer, "connected") == Some("1") && text(*peer, "state") == Some(BEFRIENDED);
    let peers = status.children().filter(|n| n.has_tag_name("peer") && !settled(n));
    Ok(peers.map(|peer| text(peer, "hostname").unwrap_or("?").to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, connected: u8, state: u8) -> String {
        format!(
            "<peer><uuid>x</uuid><hostname>{name}</hostname><hostnames><hostname>other</hostname></hostnames>\
             <connected>{connected}</connected><state>{state}</state><stateStr>any</stateStr></peer>"
        )
    }

    fn status(peers: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><cliOutput><opRet>0</opRet><opErrno>0</opErrno><opErrstr/><peerStatus>{peers}</peerStatus></cliOutput>"
        )
    }

    #[test]
    fn who_is_not_connected_or_still_compares_is_named() {
        let all = [peer("a", 1, 3), peer("b", 0, 3), peer("c", 1, 4)].concat();
        assert_eq!(parse(&status(&all)).unwrap(), ["b", "c"]);
        assert_eq!(parse(&status(&peer("a", 1, 3))).unwrap(), [""; 0]);
        assert_eq!(parse(&status("")).unwrap(), [""; 0], "a pool of one");
    }

    #[test]
    fn what_makes_no_sense_is_no_settled_pool() {
        for text in ["", "<a>", "<cliOutput><opRet>-1</opRet></cliOutput>"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse(&status("<peer/>")).unwrap(), ["?"]);
    }
}
