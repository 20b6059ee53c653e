//! Hosts with a wrong clock: libfaketime gives a program another time. Time since boot stays
//! correct, as it does when a clock is set.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::require;

/// A clock shared by the programs that use it.
pub struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// Makes a clock that is `ahead` seconds ahead, kept in `dir/name`.
    #[track_caller]
    pub fn new(dir: &Path, name: &str, ahead: i64) -> Self {
        require("faketime", "faketime");
        let clock = Self { file: dir.join(name) };
        clock.set(ahead);
        clock
    }

    /// Sets the clock to `ahead` seconds ahead.
    pub fn set(&self, ahead: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{ahead:+}\n")).expect("the directory can be written");
        fs::rename(new, &self.file).expect("both are in one directory");
    }

    /// Returns the shell commands after which a program uses this clock. The program must not be in
    /// a sandbox, which would keep the file from it.
    pub fn prelude(&self) -> String {
        format!(
            "export LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) DONT_FAKE_MONOTONIC=1 \
             FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 FAKETIME_TIMESTAMP_FILE='{}';",
            self.file.display()
        )
    }
}
