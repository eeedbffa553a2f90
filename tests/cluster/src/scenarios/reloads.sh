# What makes each manager of the node begin anew, and for how long the limit was another one then.
out=/run/limits-watch.out
file=$(echo CONTAINER_CGROUP)/memory.swap.max
wanted=$(<"$file")
now_ms() { local now=$EPOCHREALTIME; echo $(( ${now/[.,]/} / 1000 )); }
: > "$out"
watch() { # name, seconds, command
  local name=$1 end=$(( $(now_ms) + $2 * 1000 )) good worst=0 bad=0 now
  good=$(now_ms)
  shift 2
  "$@" &
  while now=$(now_ms); (( now < end )); do
    # From the last look at which all was well: on a busy node looks are seconds apart.
    if [[ $(<"$file") == "$wanted" ]]; then
      (( bad && now - good > worst )) && worst=$(( now - good ))
      good=$now bad=0
    else
      bad=1
    fi
    sleep 0.2
  done
  wait
  (( bad )) && worst=999999
  echo "$name $worst" >> "$out"
}
# The check of the check: what is written here by hand must be seen, and be put right.
overwrite() { echo 0 > "$file"; }
watch by_hand 20 overwrite
watch daemon_reload 30 systemctl daemon-reload
watch containerd 60 systemctl restart containerd
watch kubelet 90 systemctl restart kubelet
echo done >> "$out"
