use std::fs;
use std::os::unix::fs::{chown, symlink};

use super::*;

fn id(path: &Path) -> FileId {
    FileId::from(&fs::symlink_metadata(path).unwrap())
}

#[test]
fn what_is_done_happens_in_the_directory_that_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("first")).unwrap();
    fs::create_dir(path("second")).unwrap();
    let place = Place::find(&path("first/file")).unwrap();
    // From here on the path leads to another directory.
    fs::rename(path("first"), path("away")).unwrap();
    symlink("second", path("first")).unwrap();
    let make = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    place.open(make, Mode::S_IRUSR).unwrap();
    assert!(place.lasting_path().exists());
    place.beside("new".as_ref()).open(make, Mode::S_IRUSR).unwrap();
    place.beside("new".as_ref()).rename("renamed".as_ref()).unwrap();
    place.sync().unwrap();
    assert!(path("away/file").exists() && path("away/renamed").exists());
    place.remove_any().unwrap();
    assert!(!path("away/file").exists());
    assert_eq!(fs::read_dir(path("second")).unwrap().count(), 0);
}

#[test]
fn a_link_in_the_last_place_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("target"), "precious").unwrap();
    symlink("target", path("link")).unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    for name in ["link", "dangling"] {
        let place = Place::find(&path(name)).unwrap();
        for flags in [OFlag::O_RDONLY, OFlag::O_WRONLY | OFlag::O_CREAT] {
            let error = place.open(flags, Mode::S_IRUSR).unwrap_err();
            assert!(is_link(&error), "{error}");
        }
        assert!(is_link(&place.look().unwrap_err()));
        place.remove(id(&path("target"))).unwrap();
        assert!(path("target").exists() && fs::symlink_metadata(path(name)).is_ok());
    }
    assert!(!path("nowhere").exists());
}

/// As root, the only user with more rights than the owner of the link.
#[test]
fn a_link_on_the_way_is_followed_where_no_other_user_laid_it() {
    if !geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("real")).unwrap();
    fs::create_dir(path("theirs")).unwrap();
    symlink("real", path("roots")).unwrap();
    symlink("../real", path("theirs/link")).unwrap();
    Place::find(&path("roots/file")).unwrap();
    Place::find(&path("theirs/link/../roots/file")).unwrap();
    // Laid by root, in a directory in which another user can rename it.
    chown(path("theirs"), Some(65534), None).unwrap();
    let error = Place::find(&path("theirs/link/file")).unwrap_err();
    let user = user_name(Uid::from_raw(65534));
    assert!(is_link(&error) && error.to_string().contains(&user), "{error}");
    // The directory itself may be another user's.
    let there = Place::find(&path("theirs/file")).unwrap();
    assert_eq!(there.directory().unwrap().st_uid, 65534);
    // Laid by that user, in a directory of root's that all can write, such as /tmp.
    std::os::unix::fs::lchown(path("roots"), Some(65534), None).unwrap();
    assert!(is_link(&Place::find(&path("roots/file")).unwrap_err()));
}

#[test]
fn paths_that_name_no_file_are_errors_and_loops_end() {
    let dir = tempfile::tempdir().unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    for path in ["/", ".", "..", "/etc/..", "/nowhere/file", "/dev/null/file"] {
        Place::find(Path::new(path)).unwrap_err();
    }
    let error = Place::find(&dir.path().join("loop/file")).unwrap_err();
    assert_eq!(Errno::from_raw(error.raw_os_error().unwrap()), Errno::ELOOP);
    assert_eq!(Place::find(Path::new("Cargo.toml")).unwrap().name(), "Cargo.toml");
}
