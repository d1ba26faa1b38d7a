//! State directories: who may open one, what outlasts what, and what a person is told.

use std::path::{Path, PathBuf};

use mizzle_net::state::{self, Kind, State, StateError};

/// A path of this test at which there is nothing; what the test leaves there is removed at its end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_was_written_is_there_after_a_restart_and_in_a_copy() {
    let (scratch, copy) = (Scratch::new("kept"), Scratch::new("copy"));
    let state = State::create(&scratch.0.join("deep/down"), Kind::Node).unwrap();
    state.create_secret("a.key", &[7; 32]).unwrap();
    state.write("notes", b"one").unwrap();
    state.write("notes", b"two").unwrap();
    let open = state.path().join("network.doc");
    for text in [&b"longer"[..], b"new"] {
        state::publish(&open, text).unwrap();
        assert_eq!(std::fs::read(&open).unwrap(), text);
    }
    assert!(!state.path().join(".network.doc.new").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&open).unwrap().permissions().mode();
        assert_eq!(mode & 0o700, 0o600);
        // As far as this process's umask lets others.
        assert_eq!(mode & 0o133, 0);
    }
    let nowhere = state::publish(&state.path().join("no/network.doc"), b"text").unwrap_err();
    assert!(nowhere.to_string().contains("no/network.doc"), "{nowhere}");
    assert!(matches!(
        state.create_secret("a.key", &[8; 32]),
        Err(StateError::Io { .. })
    ));
    assert_eq!(state.read("other").unwrap(), None);
    let path = state.path().to_owned();
    drop(state);

    std::fs::create_dir(&copy.0).unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
    }
    for path in [&path, &copy.0] {
        let state = State::open(path, Kind::Node).unwrap();
        assert_eq!(*state.secret("a.key").unwrap(), [7; 32]);
        assert_eq!(state.read("notes").unwrap().unwrap(), b"two");
        state.replace_secret("a.key", &[9; 32]).unwrap();
        assert_eq!(*state.secret("a.key").unwrap(), [9; 32]);
    }
    // Nothing but what was asked for, and the two files of every state.
    let mut names: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a.key", "lock", "network.doc", "notes", "version"]);
    assert_eq!(
        std::fs::read_to_string(path.join("version")).unwrap(),
        "mizzle state 1 node\n"
    );
}

#[test]
fn a_second_holder_is_refused_and_told_who_holds_it() {
    let scratch = Scratch::new("held");
    let first = State::create(&scratch.0, Kind::Client).unwrap();
    let error = State::open(&scratch.0, Kind::Client).unwrap_err();
    assert!(
        matches!(error, StateError::InUse { process: Some(id), .. } if id == std::process::id()),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("in use by process {}", std::process::id())),
        "{error}"
    );
    // To look is allowed.
    assert!(State::inspect(&scratch.0, Kind::Client).is_ok());
    drop(first);
    State::open(&scratch.0, Kind::Client).unwrap();
}

#[test]
fn other_versions_other_kinds_and_other_folders_are_refused_untouched() {
    let scratch = Scratch::new("versions");
    let path = &scratch.0;
    assert!(matches!(
        State::open(path, Kind::Node),
        Err(StateError::Missing { .. })
    ));
    assert!(!path.exists());
    drop(State::create(path, Kind::Node).unwrap());
    assert!(matches!(
        State::create(path, Kind::Node),
        Err(StateError::Exists { .. })
    ));
    assert!(matches!(
        State::open_or_create(path, Kind::Client),
        Err(StateError::OtherKind {
            found: Kind::Node,
            wanted: Kind::Client,
            ..
        })
    ));
    let version = path.join("version");
    std::fs::write(&version, "mizzle state 2 node with more\n").unwrap();
    let error = State::open(path, Kind::Node).unwrap_err().to_string();
    assert!(
        error.contains("newer mizzle (state 2)") && error.contains("update"),
        "{error}"
    );
    for damaged in [
        "",
        "mizzle state",
        "mizzle state one node",
        "mizzle state 0 node",
        "mizzle state 1 cat",
        "\u{fffd}",
    ] {
        std::fs::write(&version, damaged).unwrap();
        assert!(
            matches!(State::open(path, Kind::Node), Err(StateError::Damaged { .. })),
            "{damaged}"
        );
    }

    let foreign = Scratch::new("foreign");
    std::fs::create_dir(&foreign.0).unwrap();
    std::fs::write(foreign.0.join("letter"), "dear").unwrap();
    assert!(matches!(
        State::create(&foreign.0, Kind::Node),
        Err(StateError::Foreign { .. })
    ));
    assert!(matches!(
        State::open(&foreign.0, Kind::Node),
        Err(StateError::Foreign { .. })
    ));
    assert_eq!(
        std::fs::read_dir(&foreign.0).unwrap().count(),
        1,
        "no lock is left in it"
    );
}

#[test]
fn a_crash_while_a_state_is_made_or_written_leaves_one_that_works() {
    let scratch = Scratch::new("crash");
    let path = &scratch.0;
    std::fs::create_dir(path).unwrap();
    std::fs::write(path.join("lock"), "4242\n").unwrap();
    std::fs::write(path.join(".version.new"), "mizz").unwrap();
    let state = State::create(path, Kind::Node).unwrap();
    // Half of a new file, with a mode that is not ours.
    let half = path.join(".a.key.new");
    std::fs::write(&half, "0707").unwrap();
    set_mode(&half, 0o666);
    state.create_secret("a.key", &[7; 32]).unwrap();
    assert!(!half.exists());
    assert_eq!(*state.secret("a.key").unwrap(), [7; 32]);
}

#[test]
fn what_is_no_secret_is_refused() {
    let scratch = Scratch::new("secrets");
    let state = State::create(&scratch.0, Kind::Node).unwrap();
    assert!(matches!(state.secret("none.key"), Err(StateError::Io { .. })));
    let good = "ab".repeat(32);
    for text in [good.clone(), format!("{good}\n"), format!("{good}\r\n")] {
        state.write("a.key", text.as_bytes()).unwrap();
        assert_eq!(*state.secret("a.key").unwrap(), [0xab; 32]);
    }
    for text in [
        "",
        "\n",
        &good[1..],
        &format!("{good}\nx"),
        &format!("{good}ab\n"),
        &format!("{good}\n\n\n\n"),
        &"xy".repeat(32),
    ] {
        state.write("a.key", text.as_bytes()).unwrap();
        let error = state.secret("a.key").unwrap_err();
        assert!(matches!(error, StateError::NotASecret { .. }), "{text}");
        assert!(
            text.len() < 2 || !error.to_string().contains(text.trim()),
            "the text is not repeated"
        );
    }
}

#[cfg(unix)]
#[test]
fn secrets_are_the_owners_alone_or_refused() {
    let scratch = Scratch::new("modes");
    std::fs::create_dir(&scratch.0).unwrap();
    set_mode(&scratch.0, 0o755);
    let state = State::create(&scratch.0, Kind::Node).unwrap();
    state.create_secret("a.key", &[7; 32]).unwrap();
    state.write("notes", b"one").unwrap();
    assert_eq!(mode(&scratch.0), 0o700);
    for file in ["a.key", "notes", "version", "lock"] {
        assert_eq!(mode(&scratch.0.join(file)), 0o600, "{file}");
    }
    let file = scratch.0.join("a.key");
    for bad in [0o640, 0o604, 0o620, 0o644, 0o777] {
        set_mode(&file, bad);
        let error = state.secret("a.key").unwrap_err().to_string();
        let remedy = format!("chmod 600 {}", file.display());
        assert!(
            error.contains(&remedy) && error.contains(&format!("mode {bad:04o}")),
            "{error}"
        );
        assert!(state::read_private(&file).is_err());
    }
    set_mode(&file, 0o400);
    assert_eq!(*state.secret("a.key").unwrap(), [7; 32]);
    assert_eq!(state::read_private(&file).unwrap().len(), 65);
}

#[test]
fn a_disk_that_takes_nothing_is_named_with_a_remedy() {
    for (kind, words) in [
        (std::io::ErrorKind::StorageFull, "the disk is full"),
        (std::io::ErrorKind::ReadOnlyFilesystem, "read-only"),
        (std::io::ErrorKind::PermissionDenied, "permission denied"),
    ] {
        let error = StateError::Io {
            action: "write",
            path: "/x/notes".into(),
            source: kind.into(),
        }
        .to_string();
        assert!(
            error.starts_with("cannot write /x/notes: ") && error.contains(words),
            "{error}"
        );
    }
    // Below a file no folder can be made.
    let scratch = Scratch::new("file");
    std::fs::write(&scratch.0, "").unwrap();
    let error = State::create(&scratch.0.join("state"), Kind::Node)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot make the folder"), "{error}");
    std::fs::remove_file(&scratch.0).unwrap();
}
