//! Hosts with clocks of their own: a wrong one, by libfaketime, where time since boot stays correct,
//! as it does when a clock is set; and those of a host whose time passes when a test says so.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

/// Replacement of a function of the C library, for [`HostTime`].
const TIME_C: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);
/* Seconds that have passed while the host was awake, and while it was asleep. */
static volatile const long *passed;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("HOST_TIME");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED
        : mmap(0, 2 * sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) abort();
    close(file);
    passed = shared;
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_MONOTONIC) now->tv_sec += passed[0];
    if (!failed && (clock == CLOCK_BOOTTIME || clock == CLOCK_REALTIME))
        now->tv_sec += passed[0] + passed[1];
    return failed;
}
"#;

/// Time of a host that passes when a test says so, for the programs on it: awake, or asleep as
/// after a suspend, when unix time and time since boot go on, and the time awake does not.
///
/// Programs read it through memory that is shared from their start. So they may be in their
/// sandbox, and one that is halted meanwhile sees what has passed as soon as it continues.
pub struct HostTime {
    library: PathBuf,
    file: PathBuf,
}

impl HostTime {
    /// Makes the time of a host at which none has passed yet, with files in `dir`.
    #[track_caller]
    pub fn new(dir: &Path) -> Self {
        require("cc", "gcc");
        let source = dir.join("host_time.c");
        let time = Self { library: dir.join("host_time.so"), file: dir.join("host_time") };
        fs::write(&source, TIME_C).expect("the directory can be written");
        fs::write(&time.file, [0; 16]).expect("the directory can be written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).args([&time.library, &source]).arg("-ldl");
        assert!(cc.status().expect("cc starts").success(), "cc fails, see above");
        time
    }

    /// Lets time pass in which the host is awake. A program waits no longer than it did before.
    pub fn pass(&self, time: Duration) {
        self.add(0, time);
    }

    /// Lets time pass in which the host is asleep.
    pub fn sleep(&self, time: Duration) {
        self.add(8, time);
    }

    fn add(&self, offset: u64, time: Duration) {
        let mut bytes = [0; 8];
        // In place: programs have the file in their memory.
        let file = fs::File::options().read(true).write(true).open(&self.file);
        let file = file.expect("the file is there");
        file.read_exact_at(&mut bytes, offset).expect("it has two numbers");
        let seconds = u64::from_ne_bytes(bytes) + time.as_secs();
        file.write_all_at(&seconds.to_ne_bytes(), offset).expect("it can be written");
    }

    /// Returns the environment of a program on this host.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("HOST_TIME", &self.file)]
    }

    /// Returns the same as shell commands after which a program is started.
    pub fn prelude(&self) -> String {
        let set = |(name, value): (&str, &Path)| format!("export {name}='{}';", value.display());
        self.variables().map(set).concat()
    }
}
