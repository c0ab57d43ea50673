#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| dlock::fuzzing::messages(data));
