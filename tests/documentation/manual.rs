//! The manual pages and the completions of shells are made of the same command lines as `--help`.

use std::fs;

use abukiks::config::{SETTINGS, Setting};
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{file, hold_file};

#[path = "../../admin/attached/src/arguments.rs"]
#[expect(unreachable_pub, reason = "another crate's command lines")]
mod attached;
#[path = "../../admin/check-redis.rs"]
#[expect(dead_code, reason = "the task itself")]
mod check_redis;
#[path = "../../admin/reset-count.rs"]
#[expect(dead_code, reason = "the task itself")]
mod reset_count;
#[path = "../../admin/show-count.rs"]
#[expect(dead_code, reason = "the task itself")]
mod show_count;
#[path = "../../admin/top.rs"]
#[expect(dead_code, reason = "the view itself")]
mod top;

/// How a page begins that has apostrophes which stay so. Every part of one defines them anew.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

fn service() -> Command {
    abukiks::cli::command().version(abukiks::VERSION)
}

fn tasks() -> [Command; 7] {
    [
        reset_count::Arguments::command(),
        show_count::Arguments::command(),
        check_redis::Arguments::command(),
        top::Arguments::command(),
        attached::BackupArguments::command(),
        attached::RestoreArguments::command(),
        attached::ReportArguments::command(),
    ]
    .map(|task| task.version(abukiks::VERSION))
}

/// The command line of the wrapper, which is a shell script.
pub(crate) fn wrapper() -> Command {
    let instance = "Run the task with the settings of this instance, those of /etc/abukiks/PORT.env too; it may follow TASK. \
                    Without it, backup-count and restore-count are run as \"backup\", mail-report as \"report\"";
    let settings = "Prints the settings that hold, and where the value of each comes from";
    Command::new("abukiks-admin")
        .version(abukiks::VERSION)
        .about("Runs an admin task with the settings, credentials and sandbox of the service")
        .override_usage("abukiks-admin [--instance PORT] TASK [ARGUMENT...]")
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .arg(Arg::new("instance").long("instance").value_name("PORT").help(instance))
        .subcommands(tasks())
        .subcommand(Command::new("settings").about(settings).disable_version_flag(true))
}

/// Text in which what stands in backquotes is bold.
fn inlines(text: &str) -> Vec<Inline> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = text.split('`').enumerate();
    parts.map(|(index, part)| if index % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// A list of terms and what they mean.
fn section(heading: &str, terms: &[(String, String)]) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    for (term, meaning) in terms {
        roff.control("TP", []).text([bold(term)]).text(inlines(meaning));
    }
    roff.render().replace(APOSTROPHE, "")
}

/// The exit statuses that the end of the help names: `Exit status: 0 done, 64 wrong usage.`
fn exit_statuses(command: &Command) -> Vec<(String, String)> {
    let help = command.get_after_help().expect("the end of the help").to_string();
    let (_, statuses) = help.split_once("Exit status: ").expect("exit statuses");
    let statuses = statuses.trim_end().trim_end_matches('.').split(", ");
    let pairs = statuses.map(|status| status.split_once(' ').expect("a number and its meaning"));
    pairs.map(|(status, meaning)| (status.to_owned(), meaning.to_owned())).collect()
}

/// The unit files, with their descriptions.
fn units() -> Vec<(String, String)> {
    let mut units: Vec<_> = fs::read_dir(file("systemd"))
        .expect("a folder")
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let unit = fs::read_to_string(&path).expect("text");
            let description = unit.lines().find_map(|line| line.strip_prefix("Description="))?;
            let name = path.file_name()?.to_str()?;
            let instance = if name.contains("-admin@") { "TASK" } else { "PORT" };
            Some((name.replace('@', &format!("@{instance}")), description.replace("%i", instance)))
        })
        .collect();
    units.sort();
    units
}

fn owned<const N: usize>(terms: [(&str, &str); N]) -> Vec<(String, String)> {
    terms.map(|(term, meaning)| (term.to_owned(), meaning.to_owned())).to_vec()
}

/// A part of a page, of those that `clap_mangen` makes.
type Part = fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>;

/// What every page begins with.
const BEGINNING: [Part; 5] = [
    Man::render_title,
    Man::render_name_section,
    Man::render_synopsis_section,
    Man::render_description_section,
    Man::render_options_section,
];

fn rendered(man: &Man, parts: &[Part]) -> String {
    let mut page = Vec::new();
    for part in parts {
        part(man, &mut page).expect("memory");
    }
    String::from_utf8(page).expect("text").replace(APOSTROPHE, "")
}

#[test]
fn abukiks_1_has_the_options_settings_files_units_signals_and_exit_statuses() {
    let command = service();
    let settings: Vec<_> = SETTINGS
        .iter()
        .map(|Setting { name, default, meaning, accepts }| {
            let default = if default.is_empty() { "none" } else { default };
            ((*name).to_owned(), format!("{meaning} Takes {accepts}. Default: {default}"))
        })
        .collect();
    let files = owned([
        ("/etc/abukiks/abukiks.env", "Settings of all instances, as `NAME=value` lines."),
        ("/etc/abukiks/PORT.env", "Settings of one instance, over those."),
        ("/etc/credstore/abukiks.redis-url", "The Redis URL when it holds a password."),
        ("/etc/systemd/system/abukiks@.service.d/", "Drop-ins for all instances, `systemd.unit`(5)."),
    ]);
    let help = command.get_after_help().expect("the end of the help").to_string();
    let signals = help.lines().find_map(|line| line.strip_prefix("Signals: ")).expect("signals");
    let signals = owned([("SIGTERM, SIGINT", signals)]);
    let see =
        owned([("abukiks-admin(8), systemd.unit(5), journalctl(1)", "https://github.com/abukiks/abukiks")]);
    let statuses = exit_statuses(&command);
    let man = Man::new(command);
    let page = [
        APOSTROPHE.to_owned() + &rendered(&man, &BEGINNING),
        section("SETTINGS", &settings),
        section("FILES", &files),
        section("UNITS", &units()),
        section("SIGNALS", &signals),
        section("EXIT STATUS", &statuses),
        section("SEE ALSO", &see),
    ];
    hold_file("man/abukiks.1", &page.concat());
}

#[test]
fn abukiks_admin_8_has_every_task_with_its_options_and_exit_statuses() {
    let man = Man::new(wrapper()).section("8");
    let mut page = APOSTROPHE.to_owned() + &rendered(&man, &BEGINNING);
    page += &section("TASKS", &[]);
    for task in wrapper().get_subcommands() {
        let name = task.get_name().to_owned();
        let man = Man::new(task.clone());
        let told = rendered(&man, &[Man::render_description_section, Man::render_options_section]);
        let inside = told.replace(".SH DESCRIPTION\n", "").replace(".SH OPTIONS\n", "");
        page += &format!(".SS {name}\n{inside}");
    }
    let mut statuses = exit_statuses(&tasks()[0]);
    statuses.push(("77".to_owned(), "not run by root".to_owned()));
    statuses.sort();
    page += &section("EXIT STATUS", &statuses);
    page += &section("SEE ALSO", &owned([("abukiks(1)", "the settings, the files and the units")]));
    hold_file("man/abukiks-admin.8", &page);
}

#[test]
fn shells_complete_every_option_and_every_task() {
    for (mut command, name) in [(service(), "abukiks"), (wrapper(), "abukiks-admin")] {
        for (shell, path) in [
            (Shell::Bash, format!("{name}.bash")),
            (Shell::Zsh, format!("_{name}")),
            (Shell::Fish, format!("{name}.fish")),
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut script);
            hold_file(&format!("completions/{path}"), &String::from_utf8(script).expect("text"));
        }
    }
}

#[test]
fn the_pages_name_every_setting_and_every_task_of_the_wrapper() {
    let read = |path: &str| fs::read_to_string(file(path)).expect("a page").replace("\\-", "-");
    let (service, admin) = (read("man/abukiks.1"), read("man/abukiks-admin.8"));
    for setting in SETTINGS {
        assert!(service.contains(&format!("\\fB{}\\fR", setting.name)), "{}", setting.name);
    }
    for entry in fs::read_dir(file("admin")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let task = path.file_stem().and_then(|task| task.to_str()).expect("a name");
        assert!(admin.contains(&format!(".SS {task}\n")), "{task}");
    }
}
