#!/usr/bin/env bash
# make run: the service with a Redis of its own, in this folder and in the foreground.
#
# Nothing stays behind, whichever process is killed and however:
#
#   make -- this script -+- abukiks             gets SIGTERM when the script dies (setpriv)
#                        `- keeper              notices when script and service are gone: it reads a
#                           |                   pipe that both hold open; then it stops Redis
#                           `- redis-server     gets SIGTERM when the keeper dies (setpriv)
#
# A Ctrl-C reaches every process of the terminal's foreground group. The service and Redis are in
# sessions of their own (setsid) and the keeper ignores it, so the script alone decides who ends when.
#
# ABUKIKS_PROGRAM=path runs a program that is already built.
set -euo pipefail
cd "$(dirname "$0")/.."

# The data of Redis. Its socket is named relative to the working directory: the path of a unix
# socket ends at 107 bytes, and the name of this folder may be long, and may need escapes in a URL.
state=.run
socket=$state/redis.sock
redis_url=unix:///proc/self/cwd/$socket

main() {
    mkdir -p $state
    exec 8>$state/running.lock
    flock --nonblock 8 || fail "make run is already at work in this folder"
    # This one is held by the service, the keeper and Redis as well.
    exec 9>$state/processes.lock
    if ! flock --nonblock 9; then
        echo "Waiting for the processes of an earlier make run to end"
        flock --timeout 60 9 || fail "they do not end; to see them: fuser -v $state/processes.lock"
    fi

    local program settings=() effective service='' keeper='' status=0
    # Without the locks: a server that a compiler leaves behind, such as sccache's, would hold them.
    program=$(build 8>&- 9>&-)
    read_settings
    # The program itself knows best what the settings come to, and names those that are wrong.
    effective=$(configured "$program" --check-config)

    trap 'stop' INT TERM HUP
    if [[ $'\n'$effective =~ $'\nREDIS_URL='[^$'\n']*'  # default' ]]; then
        settings+=("REDIS_URL=$redis_url")
        exec 7> >(keep_redis 8>&-)
        keeper=$!
    fi
    configured setsid "$program" 8>&- &
    service=$!

    # A port that is taken ends the service, which says so, before Redis is started.
    local port=
    until port=$(port_of $service) && [[ $port ]] || ended $service; do sleep 0.02; done
    if [[ $port && $keeper ]]; then
        echo start >&7
        until [[ $(redis-cli -s $socket ping 2>/dev/null) == PONG ]] || ended $service; do sleep 0.02; done
    fi
    if [[ $port ]] && ! ended $service; then
        greet "$port"
    fi

    wait_for $service || status=$?
    if [[ $keeper ]]; then
        exec 7>&-
        wait_for "$keeper" || status=$?
        [[ ! $port ]] || echo "Redis has stopped; the count stays in $state"
    fi
    exit "$status"
}

fail() {
    echo "$*" >&2
    exit 1
}

# Builds the program, and prints where it is.
build() {
    if [[ ${ABUKIKS_PROGRAM-} ]]; then
        echo "$ABUKIKS_PROGRAM"
        return
    fi
    echo "Building; the first time takes some minutes" >&2
    cargo build --locked --profile local --bins --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\/abukiks\)".*/\1/p'
}

# Takes into `settings` what .env says. A variable that the environment already has is stronger. Some
# editors put a byte order mark before the text, and a carriage return at the end of each line.
read_settings() {
    local setting
    [[ -e .env ]] || return 0
    while IFS= read -rd '' setting; do
        printenv "${setting%%=*}" >/dev/null || settings+=("$setting")
    done < <(LC_ALL=C sed $'1s/^\xef\xbb\xbf//; s/\r$//' .env | environment_file)
}

# Becomes a command that has the settings of .env and dies with this script. For a subshell.
configured() {
    exec env -- "${settings[@]}" setpriv --pdeathsig TERM -- "$@"
}

# Prints each NAME=value of an EnvironmentFile as systemd.exec(5) defines it, ended by a NUL: one
# .env means the same to `make run` and to a unit. The states are those of systemd's own parser. `export`
# before a name, which a shell knows, is skipped. A warning has the number of the line alone: what stands
# there may be a part of a secret.
environment_file() {
    local in=line name='' value='' blanks='' char newline=$'\n' number=1 of=1
    while
        IFS= read -rN1 char || {
            [[ $in != line && $in != comment* ]] || return 0
            [[ $in == name ]] || in=end
            char=$newline
        }
    do
        [[ $in != line ]] || of=$number
        [[ $char != "$newline" ]] || number=$((number + 1))
        case $in:$char in
        line:[[:space:]]) ;;
        line:[#\;]) in=comment ;;
        line:*) in=name name=$char ;;
        comment:\\) in=comment-escape ;;
        comment:$'\n' | comment-escape:$'\n') in=line ;;
        comment*) in=comment ;;
        name:$'\n')
            echo ".env, line $of, has no = and is ignored" >&2
            in=line
            ;;
        name:=) in=before value='' blanks='' ;;
        name:*) name+=$char ;;
        single:\') in=before ;;
        double:\") in=before ;;
        double:\\) in=double-escape ;;
        single:* | double:*) value+=$char ;;
        double-escape:[\"\\\`$]) in=double value+=$char ;;
        double-escape:$'\n') in=double ;;
        double-escape:*) in=double value+=\\$char ;;
        before:\') in=single ;;
        before:\") in=double ;;
        before:\\ | value:\\) in=escape value+=$blanks blanks='' ;;
        escape:$'\n') in=value ;;
        escape:*) in=value value+=$char ;;
        before:$'\n' | value:$'\n' | end:*)
            name=${name%"${name##*[![:space:]]}"}
            name=${name#export[[:blank:]]}
            name=${name#"${name%%[![:space:]]*}"}
            if [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]]; then
                printf '%s=%s\0' "$name" "$value"
            else
                echo ".env, line $of, begins with no name of a variable and is ignored" >&2
            fi
            [[ $in != end ]] || return 0
            in=line
            ;;
        before:[[:space:]]) ;;
        value:[[:space:]]) blanks+=$char ;;
        before:* | value:*) in=value value+=$blanks$char blanks='' ;;
        esac
    done
}

# Starts Redis when a line comes, and stops it when no other can come.
keep_redis() {
    trap '' INT TERM HUP
    read -r _ || return 0
    # Every visit that was answered is on disk, as its number must not be given out again.
    (
        cd $state
        exec setsid setpriv --pdeathsig TERM -- redis-server --port 0 \
            --unixsocket redis.sock --unixsocketperm 700 \
            --appendonly yes --appendfsync always --save '' --dir . --logfile redis.log
    ) </dev/null >/dev/null &
    local redis=$!
    cat <&0 &
    wait -n || true
    if ended $redis; then
        echo "redis-server has ended; $state/redis.log ends with:" >&2
        tail -n 3 $state/redis.log >&2
        # There is nothing to see without it.
        kill -TERM $$
        return 1
    fi
    kill -TERM $redis
    wait $redis || true
}

# The port that a process listens on, when it does: that of its socket, in the kernel's own table.
port_of() {
    local sockets port
    sockets=$(readlink /proc/"$1"/fd/* 2>/dev/null) || true
    port=$(awk -v "sockets=$sockets" '$4 == "0A" && index(sockets, "[" $10 "]") {
        sub(/.*:/, "", $2)
        print $2
        exit
    }' /proc/"$1"/net/tcp /proc/"$1"/net/tcp6 2>/dev/null) || true
    [[ ! $port ]] || echo $((16#$port))
}

greet() {
    local host task key
    host=$(sed -n 's/^HOST=\(.*\)  # .*/\1/p' <<<"$effective")
    case $host in
    0.0.0.0 | ::) host=localhost ;;
    *:*) host="[$host]" ;;
    esac
    if [[ $keeper ]]; then
        # Beside the service, or where a package keeps the tasks.
        task=${program%/*}/show-count
        [[ -e $task ]] || task=$(realpath --canonicalize-missing "${program%/*}/../libexec/abukiks/show-count")
        key=$(sed -n '/  # default$/!s/^COUNTER_KEY=\(.*\)  # .*/\1/p' <<<"$effective")
        echo "Redis keeps its data in $state. For an admin process:"
        printf ' cd %q && REDIS_URL=%q ' "$PWD" "$redis_url"
        [[ ! $key ]] || printf 'COUNTER_KEY=%q ' "$key"
        printf '%q\n' "$task"
    fi
    echo "Abukiks answers at http://$host:$1/ (stop it with Ctrl-C)"
}

ended() {
    ! kill -0 "$1" 2>/dev/null
}

# Each signal ends one wait of the shell, and is handed on to the service: a second one ends it at once.
# shellcheck disable=SC2317 # It is called by the trap.
stop() {
    signalled=yes
    [[ ! $service ]] || kill -TERM "$service" 2>/dev/null || true
}

wait_for() {
    local status signalled
    while
        signalled=
        status=0
        wait "$1" || status=$?
        [[ $signalled ]]
    do :; done
    return $status
}

main
