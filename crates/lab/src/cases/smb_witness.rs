//! Clients that have registered with Samba's witness service hear of a drain before their address moves.

use super::{Ctx, vip_of};
use crate::{files, sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::time::Duration;

const DRAINED: usize = 1;
const LIMIT: Duration = Duration::from_secs(30);

/// A client registers for an address through another one, as Windows does, and waits. `$1`: the Samba; `$2`, `$3`: the two
/// addresses.
const CLIENT: &str = r#"rm -f /tmp/swn /tmp/swn.out; mkfifo /tmp/swn
chroot $1 rpcclient -U LOGIN "ncacn_ip_tcp:$2[sign]" </tmp/swn >/tmp/swn.out 2>&1 &
exec 9>/tmp/swn
until grep -q '^[0-9]*:' /tmp/swn.out; do
  echo "RegisterEx -2 -n gluster -i $3 -c tester" >&9
  for i in 1 2 3 4 5 6; do sleep 0.5; grep -q '^[0-9]*:' /tmp/swn.out && break; done
done
echo "AsyncNotify $(grep -o '^[0-9]*:[0-9a-f-]*' /tmp/swn.out | head -1)" >&9
sleep 60 9>&9 &
"#;

pub(crate) fn told_at_a_drain(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let root = lab.site.samba_root.as_ref().context("this site has no Samba with a witness service")?;
    // Until the service has started, it is asked again.
    for node in ctx.all() {
        let line = "sed -i 's/^\\[global\\]/[global]\\n  rpc start on demand helpers = no/' /etc/samba/smb.conf
            kill -HUP $(cat /run/samba/smbd.pid); samba-dcerpcd -D --libexec-rpcds -s /etc/samba/smb.conf";
        lab.shell(&site::name(node), line)?;
    }
    let status = steadfast::status(lab, 0)?;
    let (vip, through) = (vip_of(&status, DRAINED)?, vip_of(&status, 0)?);
    let client = CLIENT.replace("LOGIN", &files::smb_login());
    let line = format!("set -- {} {through} {vip}\n{client}", root.display());
    lab.client(&format!("({line}) >/dev/null 2>&1"))?;
    let listed = || Ok(lab.shell(&site::name(0), "net witness list")?.contains(&vip).then_some(()));
    sh::wait_for("the client to be registered", LIMIT, listed)?;

    let victim = site::name(DRAINED);
    let told = std::thread::scope(|scope| {
        let drain = scope.spawn(|| lab.exec(&site::name(0), &["steadfast", "drain", &victim], LIMIT));
        let told = sh::wait_for("the client to be asked to move", LIMIT, || {
            let said = lab.client("cat /tmp/swn.out")?;
            Ok(said.contains("Client move").then_some(said))
        });
        let during = steadfast::status(lab, 0);
        let drained = drain.join().map_err(|_| anyhow::anyhow!("the thread that drains has panicked"));
        drained.and_then(|done| done).and_then(|_| Ok((told?, during?)))
    });
    lab.exec(&site::name(0), &["steadfast", "resume", &victim], LIMIT)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    let (said, during) = told?;
    let line = said.lines().find(|l| l.contains("Flags")).context("a move without an address")?;
    let to = line.split_whitespace().nth(2).context("a move without an address")?.to_owned();
    ctx.figure(format!("a client of {vip} ({victim}) was asked to go to {to}"));
    if during.holder(&vip) != Some(DRAINED) {
        bail!("{vip} had moved already when its client heard of it");
    }
    match during.holder(&to) {
        Some(node) if node != DRAINED => Ok(()),
        other => bail!("{to}, where the client was sent, is on {other:?}"),
    }
}
