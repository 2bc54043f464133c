use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

struct Site {
    dir: tempfile::TempDir,
    events: Events,
}

/// The runner with these scripts, each of which also writes its name and arguments into the file `log`.
fn site(scripts: &[(&str, &str)], timeout: Duration) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("events/legacy");
    fs::create_dir_all(&folder).unwrap();
    for (name, body) in scripts {
        let path = folder.join(format!("{name}.script"));
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >>\"$CTDB_BASE/log\"\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let plan = Plan { base: dir.path().to_owned(), built_in: BuiltIn::default(), timeout, hung: None };
    Site { events: Events::spawn(plan).0, dir }
}

impl Site {
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn run(&self, event: Event) -> Record {
        match self.events.run(event).await.unwrap() {
            Outcome::Done(record) => record,
            Outcome::Cancelled => panic!("cancelled"),
        }
    }
}

const LONG: Duration = Duration::from_secs(20);

fn take(address: &str) -> Event {
    Event::address("takeip", "eth0", address.parse().unwrap(), 24)
}

fn release(address: &str) -> Event {
    Event::address("releaseip", "eth0", address.parse().unwrap(), 24)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn scripts_run_by_name_with_ctdbs_arguments_until_one_fails() {
    let fails = "[ \"$1\" = monitor ] || exit 0\necho no disk\necho twice >&2\nexit 3";
    let site =
        site(&[("20.b", fails), ("10.a", "echo hello"), ("30.c", ""), ("10.interface", ""), ("25.off", "")], LONG);
    site.events.enable("25.off", false).unwrap();
    let record = site.run(take("10.0.0.1")).await;
    assert_eq!(record.summary, 0);
    let results: Vec<(&str, i32)> = record.scripts.iter().map(|ran| (&*ran.name, ran.result)).collect();
    let off = -libc::ENOEXEC;
    assert_eq!(results, [("10.a", 0), ("10.interface", off), ("20.b", 0), ("25.off", off), ("30.c", 0)]);
    assert_eq!(record.scripts[0].output, "hello\n");
    assert!(record.scripts[0].end >= record.scripts[0].begin);
    let line = "takeip eth0 10.0.0.1 24";
    assert_eq!(site.log(), [format!("10.a {line}"), format!("20.b {line}"), format!("30.c {line}")]);

    let record = site.run(Event::new("monitor")).await;
    assert_eq!((record.summary, record.scripts.len()), (3, 3), "those after it are not run");
    let (ran, why) = record.failure().unwrap();
    assert_eq!(ran.output, "no disk\ntwice\n");
    assert_eq!(why, "20.b.script ended with exit status 3: no disk");
    assert_eq!(site.events.status("monitor"), Some(record));
    assert_eq!(site.events.status("startup"), None);
    let all = site.events.run_within(Event::new("monitor"), None, true).await.unwrap();
    assert!(matches!(all, Outcome::Done(record) if record.summary == 3 && record.scripts.len() == 5));
}

#[tokio::test]
async fn a_hung_script_is_killed_with_all_that_it_started() {
    let site = site(
        &[("10.hangs", "sleep 100 & echo $! >\"$CTDB_BASE/child\"\necho waiting\nwait"), ("20.b", "")],
        Duration::from_secs(1),
    );
    let start = Instant::now();
    let record = site.run(Event::new("monitor")).await;
    assert!((Duration::from_secs(1)..Duration::from_secs(10)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((record.summary, record.scripts.len()), (-libc::ETIMEDOUT, 1));
    assert!(record.failure().unwrap().1.contains("did not end in time: waiting"));
    let child = fs::read_to_string(site.dir.path().join("child")).unwrap();
    let stat = Path::new("/proc").join(child.trim()).join("stat");
    until("its child is gone", || !fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))).await;
}

#[tokio::test]
async fn who_looks_at_a_hung_script_can_ask_how_it_went() {
    let mut site = site(&[("10.a", ""), ("20.hangs", "echo waiting\nsleep 100")], Duration::from_millis(500));
    let looks = site.dir.path().join("looks");
    let body =
        "#!/bin/sh\necho \"$2\" >\"$CTDB_BASE/looking\"\nwhile [ ! -e \"$CTDB_BASE/go\" ]; do sleep 0.02; done\n";
    fs::write(&looks, body).unwrap();
    fs::set_permissions(&looks, fs::Permissions::from_mode(0o755)).unwrap();
    let base = site.dir.path().to_owned();
    site.events = Events::spawn(Plan {
        base: base.clone(),
        built_in: BuiltIn::default(),
        timeout: Duration::from_millis(500),
        hung: Some(looks),
    })
    .0;
    let monitor = site.events.run(Event::new("monitor"));
    until("it looks", || fs::read_to_string(base.join("looking")).is_ok_and(|event| event == "monitor\n")).await;
    let meanwhile = site.events.status("monitor").unwrap();
    assert!(meanwhile.timed_out());
    let seen: Vec<_> = meanwhile.scripts.iter().map(|ran| (&*ran.name, ran.result, &*ran.output)).collect();
    assert_eq!(seen, [("10.a", 0, ""), ("20.hangs", -libc::ETIMEDOUT, "waiting\n")]);
    fs::write(base.join("go"), "").unwrap();
    assert!(matches!(monitor.await.unwrap(), Outcome::Done(record) if record.timed_out() && record.scripts.len() == 2));
}

#[tokio::test]
async fn one_that_does_not_hear_term_and_one_that_leaves_something_behind() {
    let site = site(
        &[
            ("10.deaf", "[ \"$1\" = monitor ] && trap '' TERM && sleep 100; exit 0"),
            ("20.leaves", "sleep 100 & echo $! >\"$CTDB_BASE/child\""),
        ],
        Duration::from_millis(500),
    );
    assert_eq!(site.run(Event::new("monitor")).await.summary, -libc::ETIMEDOUT);
    // What is left in the background keeps its output open and goes on.
    let start = Instant::now();
    let record = site.events.run_within(Event::new("startup"), None, false).await.unwrap();
    assert!(matches!(record, Outcome::Done(record) if record.summary == 0));
    assert!(start.elapsed() < Duration::from_secs(10));
    let child = fs::read_to_string(site.dir.path().join("child")).unwrap();
    let pid = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn whatever_happens_pushes_a_monitor_aside_and_what_undoes_itself_is_not_told() {
    let wait = "while [ ! -e \"$CTDB_BASE/go-$1\" ]; do sleep 0.02; done";
    let site = site(&[("10.a", wait)], LONG);
    let monitor = site.events.run(Event::new("monitor"));
    until("monitor runs", || site.log() == ["10.a monitor"]).await;
    site.events.happened(take("10.0.0.1"));
    assert_eq!(monitor.await.unwrap(), Outcome::Cancelled);
    assert_eq!(site.events.status("monitor"), None);
    until("takeip runs", || site.log().len() == 2).await;
    for event in [
        Event::new("startipreallocate"),
        take("10.0.0.2"),
        release("10.0.0.1"),
        Event::new("ipreallocated"),
        Event::new("startipreallocate"),
        release("10.0.0.2"),
        take("10.0.0.3"),
        Event::new("ipreallocated"),
    ] {
        site.events.happened(event);
    }
    for event in ["takeip", "releaseip", "startipreallocate", "ipreallocated", "monitor"] {
        fs::write(site.dir.path().join(format!("go-{event}")), "").unwrap();
    }
    site.run(Event::new("monitor")).await;
    // One move, from the first beginning to the last end.
    let seen = [
        "monitor",
        "takeip eth0 10.0.0.1 24",
        "startipreallocate",
        "releaseip eth0 10.0.0.1 24",
        "takeip eth0 10.0.0.3 24",
        "ipreallocated",
        "monitor",
    ];
    assert_eq!(site.log(), seen.map(|line| format!("10.a {line}")));
}

#[tokio::test]
async fn much_output_is_kept_from_its_end_and_what_cannot_be_run_is_told() {
    let site = site(&[("10.loud", "yes | head -c 100000; echo the end; exit 1"), ("20.broken", "")], LONG);
    let record = site.run(Event::new("startup")).await;
    let output = &record.scripts[0].output;
    assert!(output.len() <= 4096 && output.ends_with("the end\n"), "{}", output.len());
    fs::write(site.dir.path().join("events/legacy/10.loud.script"), "#!/no/such/shell\n").unwrap();
    let record = site.run(Event::new("startup")).await;
    assert_eq!(record.summary, -libc::ENOENT);
    assert!(record.failure().unwrap().1.contains("10.loud.script cannot be run"), "{record:?}");
}
