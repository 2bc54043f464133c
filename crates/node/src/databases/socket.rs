//! The socket that Samba and the `ctdb` tool connect to.

use nix::sys::socket::{getsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error(
        "stock ctdbd or another steadfast is running: it answers at {0}; Samba's databases are off until it ends \
         (systemctl disable --now ctdb)"
    )]
    Answered(PathBuf),
    #[error("Samba's databases are off: cannot {what} {path}: {source}")]
    Failed { what: &'static str, path: PathBuf, source: io::Error },
}

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: nobody else's is removed.
    file: (u64, u64),
}

impl Socket {
    /// Binds it, root's alone, in place of one that nobody answers at any more.
    ///
    /// # Errors
    /// Somebody answers there; the directory or the socket cannot be made.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |what| move |source| SocketError::Failed { what, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(dir)
                .map_err(failed("make the directory of the socket"))?;
        }
        match knock(path) {
            Ok(true) => return Err(SocketError::Answered(path.to_owned())),
            Ok(false) => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed("remove the old socket")(error));
                }
                _ => {}
            },
            Err(error) => return Err(failed("tell who has the socket")(error)),
        }
        // Until its mode is set nobody but root can connect all the same: that takes the right to write.
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("make private"))?;
        listener.set_nonblocking(true).map_err(failed("listen on"))?;
        let meta = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(Self { listener, path: path.to_owned(), file: (meta.dev(), meta.ino()) })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next connection, non-blocking, and the process at its other end; `None` if it may not connect.
    ///
    /// # Errors
    /// As `accept(2)`; [`ErrorKind::WouldBlock`] when there is none.
    pub(super) fn accept(&self) -> io::Result<Option<(UnixStream, i32)>> {
        let (stream, _) = self.listener.accept()?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials)?;
        let me = geteuid().as_raw();
        if peer.uid() != 0 && peer.uid() != me {
            tracing::warn!(
                pid = peer.pid(),
                "user {} was refused at {}; only root may use it",
                peer.uid(),
                self.path.display()
            );
            return Ok(None);
        }
        stream.set_nonblocking(true)?;
        Ok(Some((stream, peer.pid())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        // The next start removes it, if this does not.
        let _ = ours.then(|| fs::remove_file(&self.path));
    }
}

/// Does somebody answer? Does not wait for one whose queue is full.
fn knock(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => {
            // Refused also by what is no socket at all: that is somebody's file.
            match fs::symlink_metadata(path) {
                Ok(meta) if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
                    Err(io::Error::other("it is not a socket; move it away"))
                }
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(false),
            }
        }
        Err(error) => Err(error.into()),
    }
}
