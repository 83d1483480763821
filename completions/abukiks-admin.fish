# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_abukiks_admin_global_optspecs
    string join \n instance= h/help
end

function __fish_abukiks_admin_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_abukiks_admin_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_abukiks_admin_using_subcommand
    set -l cmd (__fish_abukiks_admin_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -l instance -d 'Run the task with the settings of this instance, those of /etc/abukiks/PORT.env too; it may follow TASK. Without it, backup-count and restore-count are run as "backup", mail-report as "report"' -r
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -s h -l help -d 'Print help'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "reset-count" -d 'Sets the count to 0, or to another number, and prints what it was'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "show-count" -d 'Prints the count without changing it'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "check-redis" -d 'Checks that the attached Redis can be reached and counted in, and how durable it is'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "top" -d 'Shows all instances of this host on one screen, each second anew, and what each has logged last'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "backup-count" -d 'Writes the count into the store of backups, as a new object'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "restore-count" -d 'Shows the backups, and sets the count to the newest that is whole'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "mail-report" -d 'Mails the count, the visits since the last report, and what `check-redis` says'
complete -c abukiks-admin -n "__fish_abukiks_admin_needs_command" -f -a "settings" -d 'Prints the settings that hold, and where the value of each comes from'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand reset-count" -l to -d 'The number to set' -r
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand reset-count" -l dry-run -d 'Say what would be done, and do nothing'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand reset-count" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand reset-count" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand show-count" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand show-count" -s h -l help -d 'Print help'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand check-redis" -l visitors-per-second -d 'New visitors a second, for which to say how much room their sessions need (`SESSION_LIFETIME`)' -r
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand check-redis" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand check-redis" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand top" -l once -d 'Print one table, and end'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand top" -l systemd -d 'Leave alone those that do not run, by what systemd says of `abukiks@NAME.service`: to ask them would start them'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand backup-count" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand backup-count" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand restore-count" -l down -d 'Set the count also where that lowers it'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand restore-count" -l dry-run -d 'Say what would be done, and do nothing'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand restore-count" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand restore-count" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand mail-report" -l again -d 'Send a further report in a period that has had one'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand mail-report" -l dry-run -d 'Print the mail that would be sent, and do nothing'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand mail-report" -l json -d 'Print a JSON object'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand mail-report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c abukiks-admin -n "__fish_abukiks_admin_using_subcommand settings" -s h -l help -d 'Print help'
