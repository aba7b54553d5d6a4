function __fish_knockctl_names
    set -l words (commandline -opc)
    set -l config
    if set -l at (contains -i -- -c $words; or contains -i -- --config $words)
        set config -c $words[(math $at + 1)]
    end
    knockctl $config completions $argv[1] 2>/dev/null
end
function __fish_knockctl_wants_door
    contains -- (commandline -opc)[-1] open close sequence status
end
function __fish_knockctl_wants_grant
    test (commandline -opc)[-2] = close
end
function __fish_knockctl_wants_client
    set -l words (commandline -opc)
    contains -- $words[-1] enroll revoke reset; or contains -- $words[-2] sequence
end
complete -c knockctl -n "__fish_knockctl_wants_door" -f -a "(__fish_knockctl_names doors)"
complete -c knockctl -n "__fish_knockctl_wants_grant" -f -a "(__fish_knockctl_names grants | string replace -rf '^'(commandline -opc)[-1]' ' '')"
complete -c knockctl -n "test (commandline -opc)[-1] = unlock" -f -a "(__fish_knockctl_names locked)"
complete -c knockctl -n "__fish_knockctl_wants_client" -f -a "(__fish_knockctl_names clients)"
complete -c knockctl -n "__fish_knockctl_using_subcommand history" -l door -r -f -a "(__fish_knockctl_names doors)"
complete -c knockctl -n "__fish_knockctl_using_subcommand enroll" -l door -r -f -a "(__fish_knockctl_names doors)"
