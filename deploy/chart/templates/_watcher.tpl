{{/* The watcher's container; in its own Pod or in the allocator's. */}}
{{- define "lb.watcherContainer" -}}
- name: watcher
  {{- include "lb.image" (dict "root" . "name" "lb-watcher") | nindent 2 }}
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
  {{- include "lb.probes" "watcher-admin" | nindent 2 }}
  resources: {{- toYaml .Values.watcher.resources | nindent 4 }}
  securityContext: {{- include "lb.containerSecurity" . | nindent 4 }}
  {{- if include "lb.usesTls" . }}
  volumeMounts:
  - {name: watcher-tls, mountPath: /etc/lb-watcher/tls, readOnly: true}
  {{- end }}
{{- end }}

{{- define "lb.allocatorAddress" -}}
{{- if not .Values.allocator.enabled -}}
{{ .Values.allocator.address }}
{{- else if include "lb.samePod" . -}}
http://127.0.0.1:7373
{{- else -}}
{{ ternary "https" "http" (ne .Values.tls.mode "none") }}://{{ .Release.Name }}-allocator.{{ .Release.Namespace }}.svc:{{ .Values.allocator.service.port }}
{{- end -}}
{{- end }}
