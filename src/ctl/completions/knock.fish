function __fish_knock_hosts
    set -l hosts (knock --list-hosts 2>/dev/null)
    for word in (commandline -opc)[2..]
        contains -- $word $hosts; and return
    end
    printf '%s\n' $hosts
    test (count (commandline -opc)) -gt 1; or echo import
end
complete -c knock -f -a "(__fish_knock_hosts)"
complete -c knock -l proxy -r -f -a "(__fish_knock_hosts)"
