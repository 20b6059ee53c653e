//! A certificate authority, and the certificates that it signs, made by openssl.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::require;

/// The form of a private key.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Pkcs8,
    /// RSA.
    Pkcs1,
    /// Elliptic curve.
    Sec1,
}

/// A certificate authority with a directory.
pub struct Authority {
    dir: PathBuf,
    name: String,
}

impl Authority {
    /// Makes an authority with the certificate `dir/NAME.pem`.
    #[track_caller]
    pub fn new(dir: &Path, name: &str) -> Self {
        require("openssl", "openssl");
        let it = Self { dir: dir.to_owned(), name: name.to_owned() };
        it.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} \
             -keyout {name}.key -out {name}.pem"
        ));
        it
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.join(format!("{}.pem", self.name))
    }

    /// Issues `NAME.pem` for a server or a client, and `NAME.key`; `extensions` has one per line.
    /// Returns the paths of both.
    #[track_caller]
    pub fn issue(&self, name: &str, extensions: &str, form: Form) -> (PathBuf, PathBuf) {
        self.request(name, form);
        let at = |ending: &str| self.dir.join(format!("{name}{ending}"));
        fs::write(at(".ext"), format!("basicConstraints=CA:FALSE\n{extensions}\n")).unwrap();
        let authority = &self.name;
        self.openssl(&format!(
            "x509 -req -days 2 -in {name}.csr -CA {authority}.pem -CAkey {authority}.key \
             -CAcreateserial -extfile {name}.ext -out {name}.pem"
        ));
        (at(".pem"), at(".key"))
    }

    /// Issues a certificate for a server that expired long ago.
    #[track_caller]
    pub fn issue_expired(&self, name: &str, extensions: &str) -> (PathBuf, PathBuf) {
        self.request(name, Form::Pkcs8);
        let at = |ending: &str| self.dir.join(format!("{name}{ending}"));
        fs::write(at(".ext"), format!("basicConstraints=CA:FALSE\n{extensions}\n")).unwrap();
        fs::write(at(".index"), "").unwrap();
        let dir = self.dir.display();
        let config = format!(
            "[ca]\ndefault_ca=it\n[it]\ndatabase={dir}/{name}.index\nnew_certs_dir={dir}\n\
             rand_serial=yes\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
        );
        fs::write(at(".cnf"), config).unwrap();
        let authority = &self.name;
        self.openssl(&format!(
            "ca -batch -notext -config {name}.cnf -in {name}.csr -cert {authority}.pem \
             -keyfile {authority}.key -extfile {name}.ext -startdate 20200101000000Z \
             -enddate 20200201000000Z -out {name}.pem"
        ));
        (at(".pem"), at(".key"))
    }

    fn request(&self, name: &str, form: Form) {
        let key = match form {
            Form::Pkcs8 => "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            Form::Pkcs1 => "genrsa -traditional",
            Form::Sec1 => "ecparam -name prime256v1 -genkey -noout",
        };
        self.openssl(&format!("{key} -out {name}.key"));
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.dir.join(format!("{name}.key")), mode).unwrap();
        self.openssl(&format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
    }

    #[track_caller]
    fn openssl(&self, line: &str) {
        let done = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(&self.dir)
            .output()
            .expect("openssl starts");
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }
}
