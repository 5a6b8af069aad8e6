# Sourced by quickstart: what it does with --clusters 2 and more. All of them want
# addresses from one pool, the same Services exist in each, and certificates say
# who asks.

# in_cluster NAME COMMAND…
in_cluster() {
  local -x KUBECONFIG=$1.kubeconfig
  shift
  "$@"
}

# show_clusters COMMAND…: the Services of each cluster, then what the command says.
show_clusters() {
  local name
  for name in "${clusters[@]}"; do
    show kubectl --kubeconfig "$name.kubeconfig" -n "$shop" get service
  done
  show "$@"
}

# expect_each_address_once: Services have all addresses of the pool, and none twice.
expect_each_address_once() {
  local name seen
  seen=$(for name in "${clusters[@]}"; do
    kubectl --kubeconfig "$name.kubeconfig" -n "$shop" get service \
      -o 'jsonpath={range .items[*].status.loadBalancer.ingress[*]}{.ip}{"\n"}{end}'
  done | sort | paste -sd ' ')
  expect "the addresses of Services" "$(seq -f '192.0.2.%g' $((count + 1)) | paste -sd ' ')" "$seen"
}

many_clusters() {
  local name allocator names routes freed
  for name in "${clusters[@]}"; do
    start "control-plane-$name" "$bin/control-plane" up --kubeconfig "$work/$name.kubeconfig"
  done
  # Short paths can be read in what is shown.
  cd "$work"
  for name in "${clusters[@]}"; do
    until_true "the API server of $name" test -s "$name.kubeconfig"
  done

  say "3/4 starting lb-allocator and an lb-watcher for each cluster"
  show lb-allocator certs init
  show lb-allocator certs server
  for name in "${clusters[@]}"; do show lb-allocator certs client --cluster "$name"; done
  show lb-allocator certs client --role viewer
  printf -v names '%s, ' "${clusters[@]}"
  cat >pools.yaml <<YAML
clusters: [${names%, }]
pools:
- name: public
  addresses: [192.0.2.1-192.0.2.$((count + 1))]
YAML
  show cat pools.yaml
  printf '\n'
  start_allocator --config pools.yaml \
    --tls-cert certs/server.crt --tls-key certs/server.key --client-ca certs/ca.crt
  allocator=https://127.0.0.1:$port
  for name in "${clusters[@]}"; do
    start_watcher "$name" "$name.kubeconfig" --allocator "$allocator" \
      --tls-cert "certs/watcher-$name.crt" --tls-key "certs/watcher-$name.key" --server-ca certs/ca.crt
  done
  routes=(lb-allocator routes --allocator "$allocator"
    --tls-cert certs/viewer.crt --tls-key certs/viewer.key --server-ca certs/ca.crt)

  say "4/4 creating the same Services in each cluster"
  for name in "${clusters[@]}"; do
    in_cluster "$name" create_namespace "$shop"
    in_cluster "$name" create_service "$shop" front
  done
  for name in "${clusters[@]}"; do
    until_true "an address for $shop/front in $name" in_cluster "$name" has_ip "$shop" front
  done
  in_cluster a create_service "$shop" cart
  until_true "an address for $shop/cart in a" in_cluster a has_ip "$shop" cart
  in_cluster b create_service "$shop" cart
  until_true "$shop/cart in b to be told that no address is free" in_cluster b is_pending "$shop" cart
  say "ready in $((SECONDS - begun)) s"

  printf '\n%s\n' "Every address is assigned, none twice, and one Service in b waits:"
  show_clusters "${routes[@]}"
  expect_each_address_once
  expect "the address of $shop/cart in b" "" "$(in_cluster b ip_of "$shop" cart)"

  printf '\n%s\n' "An address is released in a, and the Service that waits in b gets it:"
  freed=$(in_cluster a ip_of "$shop" front)
  show kubectl --kubeconfig a.kubeconfig -n "$shop" delete service front
  until_true "an address for $shop/cart in b" in_cluster b has_ip "$shop" cart
  show_clusters "${routes[@]}"
  expect_each_address_once
  expect "the address of $shop/cart in b" "$freed" "$(in_cluster b ip_of "$shop" cart)"

  # Every address is held: one has to be released first.
  enter="cd $work"
  next=("kubectl --kubeconfig b.kubeconfig -n $shop delete service cart"
    "kubectl --kubeconfig a.kubeconfig create service loadbalancer mine --tcp 80"
    "${routes[*]}")
  mine_has_ip() { in_cluster a has_ip default mine; }
}
