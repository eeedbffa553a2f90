# What makes each manager of the node begin anew, and for how long the limit was another one then.
out=/run/limits-watch.out
file=$(echo CONTAINER_CGROUP)/memory.swap.max
wanted=$(<"$file")
now_ms() { local now=$EPOCHREALTIME; echo $(( ${now/[.,]/} / 1000 )); }
: > "$out"
watch() { # name, seconds, command
  local name=$1 end=$(( $(now_ms) + $2 * 1000 )) since=0 worst=0 now
  shift 2
  "$@" &
  while now=$(now_ms); (( now < end )); do
    if [[ $(<"$file") == "$wanted" ]]; then
      since=0
    else
      (( since == 0 )) && since=$now
      (( now - since > worst )) && worst=$(( now - since ))
    fi
    sleep 0.2
  done
  wait
  (( since != 0 )) && worst=999999
  echo "$name $worst" >> "$out"
}
# The check of the check: what is written here by hand must be seen, and be put right.
overwrite() { echo 0 > "$file"; }
watch by_hand 20 overwrite
watch daemon_reload 30 systemctl daemon-reload
watch containerd 60 systemctl restart containerd
watch kubelet 90 systemctl restart kubelet
echo done >> "$out"
