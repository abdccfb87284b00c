//! The numbered records that the NAS writes while the power goes: who writes them, who reads them again, and
//! what the writer says of them on its console.

use std::path::Path;

/// What writer and reader agree on: record `n` of the file, of 1 to 8 KiB.
pub(super) const RECORD: &str = r#"
sub record {
    my ($n) = @_;
    srand($n);
    my $times = 4 + $n * 7919 % 28;
    return pack("NN", $n, $times) . pack("L*", map { int rand 4294967295 } 1 .. 64) x $times;
}
my $file = "/$ARGV[0]/records";
"#;

/// Appends records, each with `fsync`, and tells the console the number of each that is safe.
pub(super) const WRITER: &str = r#"
use IO::Handle;
open(my $out, ">", $file) or die "$file: $!";
open(my $console, ">", "/dev/console") or die "console: $!";
for (my $n = 1; !-e "/run/stop-writing"; $n++) {
    my $record = record($n);
    syswrite($out, $record) == length($record) or die "write: $!";
    $out->sync or die "fsync: $!";
    syswrite($console, "<a$n>\n");
}
"#;

/// Prints how many records there are from the first on, each as it was written.
pub(super) const READER: &str = r#"
open(my $in, "<", $file) or die "$file: $!";
binmode($in);
my $n = 1;
while (1) {
    my $record = record($n);
    my $got = read($in, my $seen, length($record));
    defined $got or die "read: $!";
    last if $seen ne $record;
    $n++;
}
print $n - 1, "\n";
"#;

/// The last number on a console, which has other things on it too, after its first bytes.
pub(super) fn last_acknowledged(console: &Path, skip: u64) -> u64 {
    let bytes = std::fs::read(console).unwrap_or_default();
    let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
    last_number(&String::from_utf8_lossy(&bytes[skip..]))
}

fn last_number(text: &str) -> u64 {
    let parts = text.split("<a").skip(1);
    let numbers = parts.filter_map(|part| part.split_once('>')?.0.parse().ok());
    numbers.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_among_other_words() {
        for (text, number) in [
            ("", 0),
            ("<a1>\r\n<a2>\r\n", 2),
            ("<a9>\r\n<a1", 9),
            ("<a9>[ 7.1] <abc> <a> <a10>", 10),
            ("<a[ 9.2] usb 1-1>", 0),
        ] {
            assert_eq!(last_number(text), number, "{text}");
        }
    }
}
