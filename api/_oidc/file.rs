//! Small files that another program writes: a token, the link to a project.
//!
//! Guarantees: reads only regular files of at most 64 KiB, symbolic links followed. A pipe without a writer does not
//! block, because the file is opened without waiting and checked again once it is open.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::path::PathBuf;

use crate::error::FileProblem;

/// A token has about 2 KiB.
const MAX_BYTES: u64 = 64 * 1024;

/// `O_NONBLOCK` of `<fcntl.h>`, with which opening a pipe returns at once. On other systems the check before opening
/// remains, and a file that becomes a pipe between that check and the opening blocks a thread.
#[cfg(unix)]
const O_NONBLOCK: i32 = if cfg!(all(
    any(target_os = "linux", target_os = "android"),
    any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64"
    )
)) {
    0o4000
} else if cfg!(any(target_vendor = "apple", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")) {
    0x4
} else {
    0
};

/// Reads the file, on a thread where that may take its time.
pub(crate) async fn read(path: PathBuf) -> Result<Vec<u8>, FileProblem> {
    let task = tokio::task::spawn_blocking(move || read_now(path));
    task.await.unwrap_or(Err(FileProblem::Io(std::io::ErrorKind::Interrupted)))
}

fn read_now(path: PathBuf) -> Result<Vec<u8>, FileProblem> {
    let problem = |error: std::io::Error| FileProblem::Io(error.kind());
    // Before opening, because opening some devices does something.
    if !std::fs::metadata(&path).map_err(problem)?.is_file() {
        return Err(FileProblem::NotRegular);
    }
    let file = open(path).map_err(problem)?;
    // After opening, because the path may lead to another file by now.
    if !file.metadata().map_err(problem)?.is_file() {
        return Err(FileProblem::NotRegular);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, because a file may grow, and some have no size.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() as u64 > MAX_BYTES { Err(FileProblem::TooLarge) } else { Ok(bytes) }
}

fn open(path: PathBuf) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, O_NONBLOCK);
    options.open(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("vercel-oidc-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_may_have_64_kib_and_no_more() {
        let folder = folder("size");
        let path = folder.join("file");
        std::fs::write(&path, vec![b'x'; 65_536]).unwrap();
        assert_eq!(read_now(path.clone()).unwrap().len(), 65_536);
        std::fs::write(&path, vec![b'x'; 65_537]).unwrap();
        assert_eq!(read_now(path), Err(FileProblem::TooLarge));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_and_a_missing_file_are_told_apart() {
        let folder = folder("kind");
        assert_eq!(read_now(folder.clone()), Err(FileProblem::NotRegular));
        assert_eq!(read_now(folder.join("none")), Err(FileProblem::Io(ErrorKind::NotFound)));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed_and_a_pipe_is_refused_at_once() {
        let folder = folder("pipe");
        let (file, link, pipe) = (folder.join("file"), folder.join("link"), folder.join("pipe"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_now(link.clone()).unwrap(), b"text");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read_now(pipe.clone()), Err(FileProblem::NotRegular));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        assert_eq!(read_now(link), Err(FileProblem::NotRegular));
        // Opening does not wait for a writer, even if the path becomes a pipe after the first check.
        if cfg!(any(target_os = "linux", target_vendor = "apple")) {
            assert_ne!(O_NONBLOCK, 0, "add this processor's number");
            assert!(!open(pipe).unwrap().metadata().unwrap().is_file());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
