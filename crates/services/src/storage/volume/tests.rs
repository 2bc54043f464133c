use super::super::post_op_delay::{self, PostOpDelay};
use super::*;

fn xml(replica: u32, arbiter: u32, hosts: &[&str], options: &[(&str, &str)]) -> String {
    let brick = |(i, host): (usize, &&str)| {
        let is_arbiter = u32::from(arbiter > 0 && (i as u32 + 1).is_multiple_of(replica));
        format!(
            "<brick uuid=\"u\">{host}:/b<name>{host}:/b</name><hostUuid>u</hostUuid><isArbiter>{is_arbiter}</isArbiter></brick>"
        )
    };
    let bricks: String = hosts.iter().enumerate().map(brick).collect();
    let option = |(name, value): &(&str, &str)| format!("<option><name>{name}</name><value>{value}</value></option>");
    let options: String = options.iter().map(option).collect();
    format!(
        "<?xml version=\"1.0\"?><cliOutput><opRet>0</opRet><opErrno>0</opErrno><opErrstr/><volInfo><volumes><volume>\
         <name>vol1</name><statusStr>Started</statusStr><replicaCount>{replica}</replicaCount>\
         <arbiterCount>{arbiter}</arbiterCount><disperseCount>0</disperseCount><redundancyCount>0</redundancyCount>\
         <typeStr>Distributed-Replicate</typeStr><bricks>{bricks}</bricks><options>{options}</options>\
         </volume></volumes></volInfo></cliOutput>"
    )
}

const FOUR: [&str; 4] = ["gluster1", "gluster2", "gluster3", "gluster4"];

fn volume(replica: u32, arbiter: u32, hosts: &[&str], options: &[(&str, &str)]) -> Volume {
    Volume::parse("vol1", &xml(replica, arbiter, hosts, options)).unwrap()
}

fn says(volume: &Volume, nodes: &[String]) -> String {
    volume.advice(nodes).iter().map(|advice| format!("{} -> {}\n", advice.text, advice.remedy)).collect()
}

fn coherent() -> Vec<(&'static str, &'static str)> {
    VOLUME_OPTIONS.iter().map(|setting| (setting.option, setting.value)).collect()
}

#[test]
fn pairs_without_quorum_never_break_ties() {
    let volume = volume(2, 0, &FOUR, &coherent());
    assert_eq!((volume.replica, volume.bricks.len(), volume.started), (2, 4, true));
    assert_eq!(volume.bricks[3], Brick { host: "gluster4".into(), path: "/b".into(), arbiter: false });
    assert!(volume.lock_may_break_ties().unwrap_err().contains("without client quorum"));
    let text = says(&volume, &[]);
    assert!(text.contains("never breaks a tie") && text.contains("arbiter") && text.contains("only clients"), "{text}");
    assert_eq!(volume.partners_of("gluster3"), ["gluster4"]);
}

#[test]
fn pairs_with_quorum_have_no_failover() {
    let volume = volume(2, 0, &FOUR, &[("cluster.quorum-type", "auto")]);
    assert_eq!(volume.lock_may_break_ties(), Ok(()));
    assert!(says(&volume, &[]).contains("loses its first brick cannot be locked, written, created or read"));
}

#[test]
fn three_copies_and_arbiters_are_safe_by_default() {
    let hosts = ["gluster1", "gluster2", "gluster3"];
    for arbiter in [0, 1] {
        let volume = volume(3, arbiter, &hosts, &coherent());
        assert_eq!(volume.bricks[2].arbiter, arbiter == 1);
        assert_eq!(volume.lock_may_break_ties(), Ok(()));
        let advice = volume.advice(&[]);
        assert!(advice.iter().all(|advice| advice.weight == Weight::Note), "{advice:?}");
    }
    let off = volume(3, 0, &hosts, &[("cluster.quorum-type", "none")]);
    assert!(off.lock_may_break_ties().is_err());
    let weak = volume(3, 0, &hosts, &[("cluster.quorum-type", "fixed"), ("cluster.quorum-count", "1")]);
    assert!(!weak.has_client_quorum());
}

#[test]
fn server_quorum_and_bricks_elsewhere_are_named() {
    let volume = volume(2, 0, &FOUR, &[("cluster.server-quorum-type", "server")]);
    let nodes = ["gluster1", "GLUSTER2", "gluster3"].map(str::to_owned);
    let text = says(&volume, &nodes);
    assert!(text.contains("server quorum") && text.contains("no nodes of this cluster (gluster4)"), "{text}");
}

#[test]
fn missing_settings_come_with_their_command() {
    let volume = volume(3, 0, &FOUR, &[("performance.write-behind", "disable"), ("performance.io-cache", "on")]);
    let missing: Vec<_> = volume.missing_settings().iter().map(|setting| setting.option).collect();
    assert!(!missing.contains(&"performance.write-behind"), "disable is another word for off");
    assert!(missing.contains(&"cluster.eager-lock"));
    assert!(says(&volume, &[]).contains("read from its old copies"), "{}", says(&volume, &[]));
    let plain = self::volume(1, 0, &FOUR, &[]);
    assert!(
        plain.missing_settings().iter().all(|setting| setting.option != "cluster.eager-lock"),
        "one copy is never old"
    );
    if VOLUME_OPTIONS.iter().any(|setting| setting.option == "performance.io-cache") {
        assert!(says(&volume, &[]).contains("gluster volume set vol1 performance.io-cache off"));
    }
}

#[test]
fn defaults_of_this_version_count() {
    let mut volume = volume(3, 0, &FOUR, &[]);
    assert_eq!(volume.missing_settings().len(), VOLUME_OPTIONS.len());
    let opt = |setting: &Setting| {
        format!("<Opt><Option>{}</Option><Value>{} (DEFAULT)</Value></Opt>", setting.option, setting.value)
    };
    let opts: String = VOLUME_OPTIONS.iter().map(opt).collect();
    volume.effective = parse_effective(&format!("<cliOutput><volGetopts>{opts}<Opt/></volGetopts></cliOutput>"));
    assert_eq!(volume.missing_settings(), []);
    assert!(parse_effective("garbage").is_empty());
}

#[test]
fn refusals_and_garbage_are_errors_with_the_name() {
    let refused =
        "<cliOutput><opRet>-1</opRet><opErrno>30806</opErrno><opErrstr>Volume does not exist</opErrstr></cliOutput>";
    let error = Volume::parse("vol9", refused).unwrap_err().to_string();
    assert!(error.contains("vol9") && error.contains("does not exist"), "{error}");
    let good = xml(2, 0, &FOUR, &[]);
    for bad in ["", "not xml", "<a/>", &good[..good.len() / 2], &good.replace("<replicaCount>2", "<replicaCount>x")] {
        assert!(Volume::parse("vol1", bad).is_err(), "{bad}");
    }
    assert!(Volume::parse("other", &good).is_err());
}

#[test]
fn the_post_op_delay_is_lifted_only_where_it_is_in_force_and_comes_back_as_it_was() {
    let delay = |replica, options: &[(&str, &str)]| volume(replica, 0, &FOUR, options).post_op_delay();
    let (option, mark) = (post_op_delay::OPTION, post_op_delay::MARK);
    assert_eq!(delay(2, &[]), PostOpDelay::InForce { set: None });
    assert_eq!(delay(2, &coherent()), PostOpDelay::Absent);
    assert_eq!(delay(2, &[(option, "3")]), PostOpDelay::InForce { set: Some("3".into()) });
    assert_eq!(delay(2, &[("cluster.eager-lock", "enable")]), PostOpDelay::InForce { set: None });
    // Nothing to lift, or the administrator's own doing.
    assert_eq!(delay(1, &[]), PostOpDelay::Absent);
    assert_eq!(delay(2, &[(option, "0")]), PostOpDelay::Absent);
    assert_eq!(delay(2, &[("cluster.eager-lock", "disable")]), PostOpDelay::Absent);
    assert_eq!(delay(2, &[(option, "0"), (mark, "in-force")]), PostOpDelay::Absent);
    assert_eq!(delay(2, &[(mark, "in-force")]), PostOpDelay::InForce { set: None });
    // Lifted: also when somebody has switched eager locks off since.
    assert_eq!(delay(2, &[(option, "0"), (mark, "unset")]), PostOpDelay::Lifted { before: None });
    assert_eq!(delay(2, &[(option, "0"), (mark, "3")]), PostOpDelay::Lifted { before: Some("3".into()) });
    let off = [(option, "0"), (mark, "3"), ("cluster.eager-lock", "off")];
    assert_eq!(delay(2, &off), PostOpDelay::Lifted { before: Some("3".into()) });
    assert_eq!(delay(2, &[(option, "0"), (mark, "--force; reboot")]), PostOpDelay::Lifted { before: None });
    // Broken off half way, or set by somebody meanwhile.
    assert_eq!(delay(2, &[(mark, "unset")]), PostOpDelay::Marked);
    assert_eq!(delay(2, &[(option, "2"), (mark, "unset")]), PostOpDelay::Marked);
}
