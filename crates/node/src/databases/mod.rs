//! Samba's databases on this node: what stands between the core of `ctdb` and sockets, files and links.

pub mod picture;
