{{- define "lb.usesTls" -}}
{{- if has .Values.tls.mode (list "generated" "certManager" "secrets") }}yes{{ end }}
{{- end }}

{{- define "lb.samePod" -}}
{{- if eq .Values.tls.mode "samePod" }}yes{{ end }}
{{- end }}

{{/* Names of the allocator in this cluster and for a forwarded port, and those given. A JSON list. */}}
{{- define "lb.dnsNames" -}}
{{- $name := include "lb.name" (dict "root" . "part" "allocator") -}}
{{- $svc := printf "%s.%s.svc" $name .Release.Namespace -}}
{{- $own := list $svc (printf "%s.cluster.local" $svc) (printf "%s.%s" $name .Release.Namespace) $name "localhost" -}}
{{- concat $own .Values.tls.dnsNames | toJson }}
{{- end }}

{{- define "lb.ipAddresses" -}}
{{- concat (list "127.0.0.1" "::1") .Values.tls.ipAddresses | toJson }}
{{- end }}

{{/* Clients that get a certificate, as JSON: Secrets and whom they are for. */}}
{{- define "lb.clients" -}}
{{- $full := include "lb.fullname" . -}}
{{- $watcher := include "lb.name" (dict "root" . "part" "watcher") -}}
{{- $clients := list (dict "secret" (printf "%s-admin-tls" $full) "who" "role/admin") -}}
{{- $clients = append $clients (dict "secret" (include "lb.viewerSecret" .) "who" "role/viewer") -}}
{{- if .Values.watcher.enabled -}}
{{- $who := printf "cluster/%s/role/watcher" .Values.cluster -}}
{{- $clients = append $clients (dict "secret" (include "lb.watcherSecret" .) "who" $who) -}}
{{- end -}}
{{- range .Values.tls.clusters -}}
{{- $secret := printf "%s-tls-%s" $watcher . -}}
{{- $clients = append $clients (dict "secret" $secret "who" (printf "cluster/%s/role/watcher" .)) -}}
{{- end -}}
{{- $clients | toJson }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "lb.check" -}}
{{- $mode := .Values.tls.mode -}}
{{- if and .Values.watcher.enabled (not .Values.cluster) -}}
{{- fail "cluster is missing: give this cluster a name, with --set cluster=NAME" -}}
{{- end -}}
{{- if and .Values.tls.clusters (not (has $mode (list "generated" "certManager"))) -}}
{{- fail (printf "tls.clusters is for tls.mode=generated and certManager: with tls.mode=%s nobody makes these certificates" $mode) -}}
{{- end -}}
{{- if .Values.allocator.enabled -}}
{{- $strategy := .Values.allocator.updateStrategy -}}
{{- if and (eq $strategy.type "RollingUpdate") (ne (dig "rollingUpdate" "maxSurge" "25%" $strategy | toString) "0") -}}
{{- fail "allocator.updateStrategy would start a second allocator beside the first, which has the database: with RollingUpdate, set rollingUpdate.maxSurge=0" -}}
{{- end -}}
{{- if and .Values.allocator.existingConfigMap .Values.allocator.config.pools -}}
{{- fail "allocator.config.pools and allocator.existingConfigMap are both set: the pools are in one of the two" -}}
{{- end -}}
{{- if .Values.allocator.address -}}
{{- fail "allocator.address is for an allocator elsewhere, with allocator.enabled=false" -}}
{{- end -}}
{{- if and (eq $mode "samePod") (not .Values.watcher.enabled) -}}
{{- fail "tls.mode=samePod has the watcher in the allocator's Pod: watcher.enabled cannot be false" -}}
{{- end -}}
{{- else -}}
{{- if not .Values.watcher.enabled -}}
{{- fail "allocator.enabled and watcher.enabled are both false: nothing is left to install" -}}
{{- end -}}
{{- if not .Values.allocator.address -}}
{{- fail "allocator.address is missing: where is the allocator? --set allocator.address=https://HOST:PORT" -}}
{{- end -}}
{{- if has $mode (list "generated" "samePod") -}}
{{- fail (printf "tls.mode=%s is not for an allocator elsewhere: copy the certificate that was made for this cluster there, with tls.mode=secrets, or take tls.mode=certManager with tls.issuer" $mode) -}}
{{- end -}}
{{- if and (eq $mode "certManager") (not .Values.tls.issuer) -}}
{{- fail "tls.issuer is missing: the allocator is elsewhere, so the CA has to be one that it knows" -}}
{{- end -}}
{{- $scheme := ternary "http" "https" (eq $mode "none") -}}
{{- if not (hasPrefix (printf "%s://" $scheme) .Values.allocator.address) -}}
{{- fail (printf "with tls.mode=%s, allocator.address begins with %s://" $mode $scheme) -}}
{{- end -}}
{{- end -}}
{{- end }}
