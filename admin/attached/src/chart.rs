//! The picture of the last reports: PNG, for most mail programs show no SVG.

use png::{BitDepth, ColorType, Encoder, EncodingError};

/// A bar and the gap beside it, in pixels.
const BAR: usize = 14;
const GAP: usize = 2;

/// The height of the highest bar, in pixels.
const HEIGHT: usize = 100;

/// White, and the colour of the page and the badge.
const PALETTE: [u8; 6] = [0xff, 0xff, 0xff, 0xb4, 0x47, 0x1c];

/// Draws a bar for each of the numbers, and none where there is no number. Returns a PNG file.
///
/// # Errors
/// None that is known: it is written into memory.
pub fn draw(numbers: &[Option<u64>]) -> Result<Vec<u8>, EncodingError> {
    let greatest = numbers.iter().flatten().copied().max().unwrap_or(0).max(1);
    let heights: Vec<usize> = numbers
        .iter()
        .map(|number| {
            // Rounded up, so that a single visit is visible. The product has room in 128 bits, the quotient is at most HEIGHT.
            let scaled = u128::from(number.unwrap_or(0)) * HEIGHT as u128;
            scaled.div_ceil(u128::from(greatest)) as usize
        })
        .collect();
    let (width, height) = (GAP + (BAR + GAP) * heights.len(), HEIGHT + 1);
    let pixels: Vec<u8> = (0..height)
        .flat_map(|row| (0..width).map(move |column| (row, column)))
        .map(|(row, column)| {
            let (bar, within) = (column / (BAR + GAP), column % (BAR + GAP));
            let is_bar =
                within >= GAP && heights.get(bar).is_some_and(|bar| HEIGHT - row.min(HEIGHT) <= *bar);
            // The last row is the base line.
            u8::from(is_bar || row == HEIGHT)
        })
        .collect();
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(&PALETTE[..]);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_a_bar_of_its_height() {
        let file = draw(&[Some(50), Some(u64::MAX), None, Some(0), Some(1 << 63)]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (82, 101));
        let height = |bar: usize| {
            let column = GAP + bar * (BAR + GAP);
            (0..HEIGHT).filter(|row| pixels[row * info.line_size + column] == 1).count()
        };
        assert_eq!([0, 1, 2, 3, 4].map(height), [1, 100, 0, 0, 51]);
        assert!(pixels[HEIGHT * info.line_size..].iter().all(|pixel| *pixel == 1));
    }
}
