_knock_and_hosts() {
    local word hosts=$("$1" --list-hosts 2>/dev/null)
    case "$3" in
        --proxy) ;;
        -[uv46n]|--udp|--verbose|--ipv4|--ipv6|--dry-run|--totp|--spa|--close|--fwknop|--nat-local) ;;
        -*) hosts= ;;
    esac
    # There is one already.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
        [[ $'\n'$hosts$'\n' == *$'\n'"$word"$'\n'* ]] && hosts=
    done
    ((COMP_CWORD > 1)) || hosts+=$'\nimport'
    [[ $2 != -* && -n $hosts ]] && COMPREPLY=($(compgen -W "$hosts" -- "$2")) && return
    _knock "$@"
}

complete -F _knock_and_hosts -o bashdefault -o default knock
