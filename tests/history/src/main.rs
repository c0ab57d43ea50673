//! `check-history FILE…`: judges one history, whose files may be several. Exit status 0: nothing is wrong; 1: something is;
//! 2: not a history.

use std::process::ExitCode;

use dlock_history::file::judge;

fn main() -> ExitCode {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    if paths.is_empty() {
        eprintln!("usage: check-history FILE...");
        return ExitCode::from(2);
    }
    let mut texts = Vec::new();
    for path in &paths {
        match std::fs::read(path) {
            // A killed writer's last line may end within a character.
            Ok(bytes) => texts.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    match judge(paths.iter().map(String::as_str).zip(texts.iter().map(String::as_str))) {
        Ok(verdict) => {
            println!("{verdict}");
            ExitCode::from(u8::from(!verdict.violations.is_empty()))
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
