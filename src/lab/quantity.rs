//! Sizes and rates as people write them: `4M`, `256Ki`, `1.5G`, plain bytes.

/// Why a quantity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a size or rate: write bytes, or a number with k, M, G (powers of 1,000) or Ki, Mi, Gi (of 1,024)"
)]
pub struct BadQuantity(pub String);

/// Bytes, or bytes a second. k, M, G are 10^3, 10^6, 10^9; Ki, Mi, Gi are powers of 1,024; a B at
/// the end changes nothing.
pub fn parse_quantity(text: &str) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity(text.to_owned());
    let t = text.trim();
    let t = t.strip_suffix('B').unwrap_or(t);
    let digits = t.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(t.len());
    let (number, unit) = t.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
    if value.is_finite() && (0.0..9e18).contains(&value) { Ok(value.round() as u64) } else { Err(bad()) }
}

/// Bytes in the largest decimal unit that keeps the number above 1, for tables.
pub fn show_bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.2} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_units_differ() {
        for (text, bytes) in [
            ("0", 0),
            ("1234", 1234),
            ("4M", 4_000_000),
            ("4MB", 4_000_000),
            ("256Ki", 262_144),
            ("256 KiB", 262_144),
            ("1.5G", 1_500_000_000),
            ("0.25M", 250_000),
            ("2Gi", 2 << 30),
        ] {
            assert_eq!(parse_quantity(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_names_itself() {
        for text in ["", "M", "4m", "-1", "1e9", "1..5", "99999999999G", "4 MMi", "٣"] {
            assert!(parse_quantity(text).is_err(), "{text}");
        }
        assert!(parse_quantity("7x").unwrap_err().to_string().contains("`7x`"));
    }
}
