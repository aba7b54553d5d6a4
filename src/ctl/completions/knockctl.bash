_knockctl_names() {
    local at config=() names of
    case "$3" in
        open|close|sequence|status|--door) of=doors ;;
        enroll|revoke|reset) of=clients ;;
        unlock) of=locked ;;
        *) case "${COMP_WORDS[COMP_CWORD - 2]}" in
            sequence) of=clients ;;
            close) of=grants ;;
            *) return 1 ;;
        esac ;;
    esac
    [[ $2 == -* ]] && return 1
    for ((at = 1; at + 1 < COMP_CWORD; at++)); do
        case "${COMP_WORDS[at]}" in
            -c|--config) config=(-c "${COMP_WORDS[at + 1]}") ;;
        esac
    done
    names=$("$1" "${config[@]}" completions "$of" 2>/dev/null) || return 1
    [[ $of == grants ]] && names=$(sed -n "s/^$3 //p" <<<"$names")
    COMPREPLY=($(compgen -W "$names" -- "$2"))
}

_knockctl_and_names() {
    _knockctl_names "$@" || _knockctl "$@"
}

complete -F _knockctl_and_names -o bashdefault -o default knockctl
