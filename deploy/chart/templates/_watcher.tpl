{{/* The watcher's container; in its own Pod or in the allocator's. */}}
{{- define "lb.watcherContainer" -}}
{{- $mounts := list -}}
{{- if include "lb.usesTls" . -}}
{{- $mounts = append $mounts (dict "name" "watcher-tls" "mountPath" "/etc/lb-watcher/tls" "readOnly" true) -}}
{{- end -}}
{{- if include "lb.samePod" . -}}
{{- $mounts = append $mounts (dict "name" "watcher-token" "mountPath" "/var/run/secrets/kubernetes.io/serviceaccount" "readOnly" true) -}}
{{- end -}}
- name: watcher
  {{- include "lb.image" (dict "root" . "part" "watcher") | nindent 2 }}
  args:
  - --cluster={{ .Values.cluster }}
  - --allocator={{ include "lb.allocatorAddress" . }}
  {{- if include "lb.usesTls" . }}
  - --tls-cert=/etc/lb-watcher/tls/tls.crt
  - --tls-key=/etc/lb-watcher/tls/tls.key
  - --server-ca=/etc/lb-watcher/tls/ca.crt
  {{- end }}
  {{- with .Values.watcher.loadBalancerClass }}
  - --load-balancer-class={{ . }}
  {{- end }}
  {{- if .Values.watcher.handleUnclassed }}
  - --handle-unclassed
  {{- end }}
  {{- with .Values.watcher.annotationAliases }}
  - --annotation-aliases={{ join "," . }}
  {{- end }}
  - --admin-listen={{ .Values.listenHost }}:7375
  {{- with .Values.watcher.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.watcher.env }}
  env: {{- toYaml . | nindent 2 }}
  {{- end }}
  ports:
  - {name: watcher-admin, containerPort: 7375}
  {{- include "lb.containerSpec" (dict "root" . "part" "watcher" "adminPort" "watcher-admin" "volumeMounts" $mounts) | trim | nindent 2 }}
{{- end }}

{{- define "lb.watcherVolumes" -}}
{{- if include "lb.usesTls" . }}
- {{ include "lb.secretVolume" (dict "name" "watcher-tls" "secret" (include "lb.watcherSecret" .)) }}
{{- end }}
{{- if include "lb.samePod" . }}
# What Kubernetes would mount into each container of the Pod.
- name: watcher-token
  projected:
    sources:
    - serviceAccountToken: {path: token}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}
{{- with .Values.watcher.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
