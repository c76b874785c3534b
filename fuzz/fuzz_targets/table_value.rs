//! Any text is a value, which is written as a text for the same value, or refused.
#![no_main]

use ledger_layout::tables::{
    Array, Bounded, Event, Pairs, boolean, bytes, date, decimal, float32, float64, integer,
    push_bytes, push_date, push_float32, push_float64, push_pair, push_timestamp, push_uuid,
    timestamp, uuid, vector,
};
use libfuzzer_sys::fuzz_target;

/// The text that `push` writes.
fn text(push: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut text = Vec::new();
    push(&mut text);
    text
}

fuzz_target!(|data: (&[u8], u16, u16)| {
    let (input, precision, scale) = data;
    let _ = (boolean(input), integer(input));
    if let Ok(value) = float64(input) {
        let back = float64(&text(|to| push_float64(value, to))).unwrap();
        assert!(back.to_bits() == value.to_bits() || back.is_nan() && value.is_nan());
    }
    if let Ok(value) = float32(input) {
        let back = float32(&text(|to| push_float32(value, to))).unwrap();
        assert!(back.to_bits() == value.to_bits() || back.is_nan() && value.is_nan());
    }
    let (precision, scale) = (precision % 77, scale % 77);
    if let Ok(value) = decimal(input, precision, scale) {
        let shown = text(|to| value.push(usize::from(scale), to));
        let back = decimal(&shown, precision, scale).unwrap();
        assert_eq!(back.to_le_bytes(), value.to_le_bytes());
    }
    if let Ok(value) = uuid(input) {
        assert_eq!(uuid(&text(|to| push_uuid(value, to))), Ok(value));
    }
    let mut value = Vec::new();
    if bytes(input, &mut value).is_ok() {
        let mut back = Vec::new();
        bytes(&text(|to| push_bytes(&value, to)), &mut back).unwrap();
        assert_eq!(back, value);
    }
    if let Ok(Bounded::At(days)) = date(input) {
        assert_eq!(date(&text(|to| push_date(days, to))), Ok(Bounded::At(days)));
    }
    if let Ok(Bounded::At(micros)) = timestamp(input) {
        let shown = text(|to| push_timestamp(micros, true, to));
        assert_eq!(timestamp(&shown), Ok(Bounded::At(micros)));
    }
    if let Ok(array) = Array::parse(input) {
        let elements = array.events().filter(|event| {
            matches!(event, Ok(Event::Element(_) | Event::Null))
        });
        let counted: usize = array.lengths().iter().product();
        let expected = if array.depth() == 0 { 0 } else { counted };
        assert_eq!(elements.count(), expected);
        assert!(array.events().all(|event| event.is_ok()));
    }
    if let Ok(pairs) = Pairs::of(input).collect::<Result<Vec<_>, _>>() {
        let mut shown = Vec::new();
        for (at, (key, value)) in pairs.iter().enumerate() {
            push_pair(key, value.as_deref(), at == 0, &mut shown);
        }
        let back: Result<Vec<_>, _> = Pairs::of(&shown).collect();
        assert_eq!(back, Ok(pairs));
    }
    if let Ok(numbers) = vector(input) {
        let _ = numbers.count();
    }
});
