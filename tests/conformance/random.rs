use std::path::Path;
pub fn compare(_server: &Path) {}
