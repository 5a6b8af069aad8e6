# shellcheck shell=bash
# Sourced: writes images in the form that `docker save` has, without Docker.

# add_image FOLDER NAME ROOT CONFIG: adds an image of one layer, the files in ROOT, to
# what is in FOLDER already. CONFIG is the image's `config`, in JSON.
add_image() {
  local folder=$1 name=$2 root=$3 config=$4 layer digest
  layer=$(mktemp "$folder/XXXXXX.tar")
  # Neither devices nor what another process has mounted there belong to an image.
  digest=$(tar -C "$root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' \
    --exclude='./sys/*' -c . | tee "$layer" | sha256sum | cut -d' ' -f1)
  jq -n --arg architecture "$(image_architecture)" --arg digest "sha256:$digest" --argjson config "$config" \
    '{$architecture, os: "linux", created: "1970-01-01T00:00:00Z", $config, rootfs: {type: "layers", diff_ids: [$digest]}}' \
    >"$layer.json"
  [ -e "$folder/manifest.json" ] || echo '[]' >"$folder/manifest.json"
  jq --arg name "$name" --arg layer "$(basename "$layer")" \
    '. + [{Config: ($layer + ".json"), RepoTags: [$name], Layers: [$layer]}]' "$folder/manifest.json" >"$folder/manifest.new"
  mv "$folder/manifest.new" "$folder/manifest.json"
}

# As Go calls it.
image_architecture() {
  case $(uname -m) in
  x86_64) echo amd64 ;;
  aarch64) echo arm64 ;;
  *) die "no node image is built for $(uname -m)" ;;
  esac
}
