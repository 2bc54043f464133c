//! The demo: the reference site, what to try, until Ctrl-C.

use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::site::{CLIENT, NFS_NAME, SHARE, SMB_NAME, VOLUME};
use crate::{files, sh, steadfast};
use anyhow::Result;
use std::time::Duration;

/// Brings the site up inside its laboratory, prints what to try, and stays.
pub(crate) fn main(lab: &Lab) -> Result<()> {
    let progress = Progress::new();
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    progress.step("waiting until every node serves and every address is hosted");
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    steadfast::wait_whole(lab, &all, Duration::from_secs(180))?;
    parts::wait_nfs_writable(lab)?;
    sh::wait_for("the names to work on the client", Duration::from_secs(60), || {
        lab.client(&format!("nfs-ls nfs://{NFS_NAME}/{VOLUME} >/dev/null")).map(Some)
    })?;
    lab.write(CLIENT, "/root/hello.txt", "Hello from the client host.\n")?;
    progress.step("ready");
    println!("\n{}\n", steadfast::status_text(lab, 0).trim_end());
    print!("{}", commands(lab)?);
    Ok(())
}

/// Commands for another shell of this machine, as root; each works as it is printed.
fn commands(lab: &Lab) -> Result<String> {
    let me = std::env::current_exe()?;
    let lab_word = format!("{} --lab {}", me.display(), lab.site.id);
    let on_client = format!("{lab_word} client --");
    let login = files::smb_login();
    Ok(format!(
        "Try this from another shell (as root):

  the client, over SMB, by name
    {on_client} smbclient -U {login} //{SMB_NAME}/{SHARE} -c ls
    {on_client} smbclient -U {login} //{SMB_NAME}/{SHARE} -c 'lcd /root; put hello.txt'
    {on_client} smbclient -U {login} //{SMB_NAME}/{SHARE} -c 'lcd /root; get hello.txt back.txt'
  the client, over NFS, by name
    {on_client} nfs-ls nfs://{NFS_NAME}/{VOLUME}/{SHARE}
    {on_client} nfs-cp /root/hello.txt nfs://{NFS_NAME}/{VOLUME}/{SHARE}/over-nfs.txt
    {on_client} nfs-cat nfs://{NFS_NAME}/{VOLUME}/{SHARE}/hello.txt
  Samba is one server of all nodes: who is there, and which users (added once)?
    {lab_word} exec gluster1 -- smbstatus
    {lab_word} exec gluster4 -- pdbedit -L
  which addresses do the names have?
    {on_client} dig +short {NFS_NAME}.storage.example
  pull the plug of a server, watch, and plug it in again
    {lab_word} exec gluster1 -- steadfast status --watch
    {lab_word} power-off gluster2
    {lab_word} power-on gluster2
  what happened, and why
    {lab_word} exec gluster1 -- steadfast events
  planned work on a server
    {lab_word} exec gluster1 -- steadfast drain gluster3
    {lab_word} exec gluster1 -- steadfast resume gluster3

Ctrl-C ends the demo and leaves nothing behind.
"
    ))
}
