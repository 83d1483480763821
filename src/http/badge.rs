//! The count as a picture for other people's pages.

use crate::config::Config;
use crate::http::page::escape;

/// Of a character, in pixels, at most.
const WIDTH: usize = 7;

/// Beside a text, in pixels.
const MARGIN: usize = 6;

/// A small SVG image with the label and the number. It has its own background, so that it can be read on a
/// light page and on a dark one, and takes no font or script from elsewhere. Nothing that a client sends
/// is drawn.
pub(crate) fn badge(config: &Config, number: i64) -> String {
    let (label, color) = (escape(&config.badge_label), &config.badge_color);
    let text = [config.badge_label.chars().count(), number.to_string().len()].map(|letters| WIDTH * letters);
    let [left, right] = text.map(|width| width + 2 * MARGIN);
    let (width, number_at) = (left + right, left + MARGIN);
    let ink = if is_light(color) { "#000" } else { "#fff" };
    let [label_width, number_width] = text;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"20\" role=\"img\" \
         aria-label=\"{label}: {number}\">\n<title>{label}: {number}</title>\n\
         <rect width=\"{left}\" height=\"20\" fill=\"#3b342a\"/>\n\
         <rect x=\"{left}\" width=\"{right}\" height=\"20\" fill=\"{color}\"/>\n\
         <g font-family=\"Verdana,DejaVu Sans,sans-serif\" font-size=\"11\">\n\
         <text x=\"{MARGIN}\" y=\"14\" textLength=\"{label_width}\" fill=\"#fff\">{label}</text>\n\
         <text x=\"{number_at}\" y=\"14\" textLength=\"{number_width}\" fill=\"{ink}\">{number}</text>\n\
         </g>\n</svg>\n"
    )
}

/// Whether black is read better than white on a colour of three or six digits (WCAG 2.2, "contrast ratio").
fn is_light(color: &str) -> bool {
    let digits: Vec<u32> = color.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let channels: Vec<u32> = match digits.len() {
        3 => digits.iter().map(|digit| 17 * digit).collect(),
        _ => digits.chunks(2).map(|pair| pair.iter().fold(0, |value, digit| 16 * value + digit)).collect(),
    };
    // Within 0.002 of sRGB's curve. `powf` would load libm, and each process have 330 KiB more.
    let linear = |channel: &u32| {
        let value = f64::from(*channel) / 255.0;
        value * (value * (value * 0.305_306_011 + 0.682_171_111) + 0.012_522_878)
    };
    let luminance: f64 =
        channels.iter().zip([0.2126, 0.7152, 0.0722]).map(|(channel, part)| part * linear(channel)).sum();
    // There both have the same contrast.
    luminance > 0.179
}

#[cfg(test)]
mod tests {
    use super::is_light;

    #[test]
    fn the_number_is_dark_on_light_colours_and_light_on_dark_ones() {
        for (color, light) in [
            ("#fff", true),
            ("#000000", false),
            ("#b4471c", false),
            ("#ff0", true),
            ("#00f", false),
            ("#F0F0E0", true),
        ] {
            assert_eq!(is_light(color), light, "{color}");
        }
    }
}
