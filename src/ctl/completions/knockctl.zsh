(( $+functions[_knockctl_names] )) ||
_knockctl_names() {
    local -a line=(${(z)BUFFER}) config names
    local at=${line[(I)(-c|--config)]}
    (( at > 0 && at < ${#line} )) && config=(-c "${(Q)line[at + 1]}")
    names=(${(f)"$(_call_program $1 knockctl ${(q)config} completions $1 2>/dev/null)"})
    [[ $1 == grants ]] && names=(${${(M)names:#${(Q)words[CURRENT-1]} *}#* })
    compadd -a names
}
(( $+functions[_knockctl_grants] )) || _knockctl_grants() { _knockctl_names grants }
(( $+functions[_knockctl_locked] )) || _knockctl_locked() { _knockctl_names locked }
(( $+functions[_knockctl_doors] )) || _knockctl_doors() { _knockctl_names doors }
(( $+functions[_knockctl_clients] )) || _knockctl_clients() { _knockctl_names clients }
