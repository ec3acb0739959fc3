<?php
/**
 * Leaves nothing behind.
 *
 * @package Avatarmod
 */

defined( 'WP_UNINSTALL_PLUGIN' ) || exit;

/** Removes options, notes, records, the pictures of our own field, and what was hidden of blocked ones. */
function avatarmod_uninstall(): void {
	global $wpdb;
	$uploads = trailingslashit( wp_get_upload_dir()['basedir'] );
	$folder  = $uploads . 'avatarmod-blocked/';
	$own     = $wpdb->get_col( $wpdb->prepare( "SELECT meta_value FROM $wpdb->usermeta WHERE meta_key = %s", 'avatarmod_upload' ) );
	foreach ( $own as $name ) {
		if ( 0 === validate_file( $name ) ) {
			wp_delete_file( $uploads . $name );
		}
	}
	foreach ( is_dir( $folder ) ? (array) scandir( $folder ) : array() as $file ) {
		if ( is_file( $folder . $file ) ) {
			wp_delete_file( $folder . $file );
		}
	}
	if ( is_dir( $folder ) ) {
		rmdir( $folder ); // phpcs:ignore WordPress.WP.AlternativeFunctions
	}
	wp_unschedule_hook( 'avatarmod_tick' );
	wp_unschedule_hook( 'avatarmod_examine' );
	$options = $wpdb->get_col(
		$wpdb->prepare( "SELECT option_name FROM $wpdb->options WHERE option_name LIKE %s", $wpdb->esc_like( 'avatarmod' ) . '%' )
	);
	array_map( 'delete_option', $options );
	delete_metadata( 'user', 0, 'avatarmod', '', true );
	delete_metadata( 'user', 0, 'avatarmod_state', '', true );
	delete_metadata( 'user', 0, 'avatarmod_upload', '', true );
}

avatarmod_uninstall();
