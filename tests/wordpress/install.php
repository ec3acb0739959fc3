<?php
// Installs WordPress and the plugin: php install.php ROOT URL.
define( 'WP_INSTALLING', true );
$_SERVER['HTTP_HOST'] = parse_url( $argv[2], PHP_URL_HOST ) . ':' . parse_url( $argv[2], PHP_URL_PORT );
require $argv[1] . '/wp-load.php';
require_once ABSPATH . 'wp-admin/includes/upgrade.php';
require_once ABSPATH . 'wp-admin/includes/plugin.php';
wp_install( 'Test', 'admin', 'admin@example.org', true, '', 'secret' );
wp_mkdir_p( WP_CONTENT_DIR . '/uploads' );
$error = activate_plugin( 'avatarmod/avatarmod.php' );
echo is_wp_error( $error ) ? $error->get_error_message() : 'ok';
