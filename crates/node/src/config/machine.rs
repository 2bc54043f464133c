//! What the configuration is checked against on this machine: its addresses, interfaces and name.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// This machine, or one made up by a test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its addresses, public ones that it holds at the moment included.
    pub addresses: BTreeSet<IpAddr>,
    /// Its network interfaces.
    pub interfaces: BTreeSet<String>,
    /// Its host name, as the kernel knows it.
    pub hostname: String,
    /// Which node it is, when the operator says so (`--node NAME`).
    pub node: Option<String>,
    /// It stands for all nodes of a trial, each on a loopback address: those may be nodes' addresses then, and the
    /// interfaces of public addresses are not looked for.
    pub loopback: bool,
}

impl Machine {
    /// Looks at this machine (in this network namespace).
    ///
    /// # Errors
    /// When /sys or /proc cannot be read or the kernel does not list the addresses.
    pub fn probe(node: Option<String>) -> io::Result<Self> {
        let interfaces = names_in(Path::new("/sys/class/net"))?;
        let addresses = nix::ifaddrs::getifaddrs()
            .map_err(io::Error::from)?
            .filter_map(|entry| {
                let address = entry.address?;
                if let Some(v4) = address.as_sockaddr_in() {
                    return Some(IpAddr::from(v4.ip()));
                }
                address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()))
            })
            .collect();
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        Ok(Self { addresses, interfaces, hostname: hostname.trim().to_owned(), node, loopback: false })
    }
}

/// Interfaces of this network namespace. `/sys` may be mounted from another one, so `/proc/net/dev`, which
/// follows the reading process, is preferred.
fn names_in(sys: &Path) -> io::Result<BTreeSet<String>> {
    if let Ok(text) = std::fs::read_to_string("/proc/thread-self/net/dev") {
        let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
        return Ok(names.map(|(name, _)| name.trim().to_owned()).collect());
    }
    std::fs::read_dir(sys)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_loopback_interface() {
        let machine = Machine::probe(None).expect("this machine");
        assert!(machine.interfaces.contains("lo"), "{machine:?}");
    }
}
