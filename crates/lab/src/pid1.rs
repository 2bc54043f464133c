//! The first process of a laboratory: makes its private file system, runs the driver, reaps, and ends everything.
//!
//! It ends when the driver ends, or when its owner does (the pipe on its standard input closes without `stay`).

use anyhow::{Context, Result};
use std::ffi::CString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Never returns while the laboratory lives; gives the driver's exit code.
pub(crate) fn main(id: &str, inside: &[String]) -> Result<i32> {
    let base = Path::new(crate::launch::REGISTRY).join(id);
    let options = CString::new("size=75%,mode=755")?;
    rustix::mount::mount("steadfast-lab", &base, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("cannot mount a tmpfs on {}", base.display()))?;
    // Equal footing with whatever else runs on this machine (sched_autogroup counts sessions, not processes).
    let _ = std::fs::write("/proc/self/autogroup", "-10");
    watch_owner();
    end_on_signal()?;
    let me = std::env::current_exe()?;
    let driver = Command::new(me)
        .args(["inside", "--id", id])
        .args(inside)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the laboratory's driver")?;
    let driver = driver.id().cast_signed();
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == driver => {
                return Ok(status.exit_status().unwrap_or(1));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("waiting for the laboratory's processes"),
        }
    }
}

/// `down` asks with SIGTERM, which a pid 1 without a handler would not even get.
fn end_on_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            if let Ok(mut term) = signal(SignalKind::terminate()) {
                term.recv().await;
                // As a shell says it of a process that SIGTERM ended: a run that was interrupted must not look green.
                std::process::exit(143);
            }
        });
    });
    Ok(())
}

fn watch_owner() {
    let stay = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        let mut word = [0u8; 64];
        let mut stdin = std::io::stdin();
        loop {
            match stdin.read(&mut word) {
                Ok(0) | Err(_) if stay.load(Ordering::Relaxed) => return,
                Ok(0) | Err(_) => std::process::exit(1),
                Ok(_) => stay.store(true, Ordering::Relaxed),
            }
        }
    });
}
