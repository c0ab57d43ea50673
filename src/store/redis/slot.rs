//! Cluster slots: in which a key falls, and the smallest tag that falls in the same. Pure arithmetic: knows no server.

/// How many slots a cluster has.
pub const SLOTS: usize = 16384;

/// CRC16 (XMODEM) by byte, as clusters use it.
const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

const fn step(crc: u16, byte: u8) -> u16 {
    (crc << 8) ^ CRC[((crc >> 8) ^ byte as u16) as usize & 0xff]
}

/// For each slot the smallest non-negative integer whose decimal text falls in it. Computed by the compiler.
static TAGS: [u32; SLOTS] = tags();

#[allow(long_running_const_eval)]
const fn tags() -> [u32; SLOTS] {
    const UNSET: u32 = u32::MAX;
    const NUMBERS: usize = 200_000;
    let mut tags = [UNSET; SLOTS];
    // The CRC of a number's text is one step from that of the text without its last digit.
    let mut crcs = [0u16; NUMBERS / 10];
    let mut found = 0;
    let mut n = 0;
    while found < SLOTS {
        let crc = step(if n < 10 { 0 } else { crcs[n / 10] }, b'0' + (n % 10) as u8);
        if n < crcs.len() {
            crcs[n] = crc;
        }
        let slot = crc as usize % SLOTS;
        if tags[slot] == UNSET {
            tags[slot] = n as u32;
            found += 1;
        }
        n += 1;
    }
    tags
}

/// The slot of `key`: of what stands between its first `{` and the next `}`, unless that is nothing.
pub fn slot(key: &str) -> u16 {
    let key = key.as_bytes();
    let tagged = key.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&b| b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let crc = tagged.unwrap_or(key).iter().fold(0, |crc, &byte| step(crc, byte));
    crc % SLOTS as u16
}

/// The smallest non-negative integer, in decimal, that hashes to the slot of `key`.
pub fn tag(key: &str) -> u32 {
    tag_of(slot(key))
}

/// The same of that slot.
pub fn tag_of(slot: u16) -> u32 {
    TAGS[usize::from(slot)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{user1000}.following"), slot("user1000"));
        assert_ne!(slot("foo{}{bar}"), slot("bar"), "an empty tag is no tag");
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
    }

    #[test]
    fn every_slot_has_its_smallest_tag() {
        let mut smallest = vec![None; SLOTS];
        for n in 0..=*TAGS.iter().max().unwrap() {
            smallest[usize::from(slot(&n.to_string()))].get_or_insert(n);
        }
        for (slot, tag) in smallest.iter().enumerate() {
            assert_eq!(*tag, Some(TAGS[slot]), "slot {slot}");
        }
    }

    #[test]
    fn a_key_and_its_queue_share_a_slot_whatever_braces_they_have() {
        for key in ["g:n", "g:{", "g:}", "g:{}", "g:{a}", "{g}:n", "{:}", "g:}{", "{g:n", "g}:{n}", "ü:{ß}x", "g:{{}}"]
        {
            let queue = format!(":dlock:wait:{{{}}}:{key}", tag(key));
            assert_eq!(slot(&queue), slot(key), "{key}");
        }
    }
}
